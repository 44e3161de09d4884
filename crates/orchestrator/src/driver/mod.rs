//! One task owns one sandbox.
//!
//! ```text
//! handles ── Command ──► Driver ── Published (watch) ──► views, fast path of operations
//!                          │
//!                          ├─ create.rs   nothing  ─► hot
//!                          ├─ stop.rs     hot, warm ─► cold
//!                          ├─ wake.rs     cold, failed ─► hot
//!                          ├─ thermal.rs  hot ─► warm ─► hot, and when
//!                          ├─ gate.rs     who may go past the driver
//!                          └─ launch.rs   what all of them need
//! ```
//! Everything that changes a sandbox happens here, one thing after the other, so a hundred callers
//! that find it cold cause one wake, and nobody's leaving cancels anything half-made. Every change
//! is in the store before anybody is told, but for pausing and resuming: whether vCPUs run can be
//! seen from the VM itself.

mod adopt;
mod born;
mod capture;
mod command;
mod create;
mod edit;
mod end;
mod gate;
mod launch;
mod layers;
mod saved;
mod space;
mod spare;
mod state;
mod stop;
mod thermal;
mod volumes;
mod wake;

use std::sync::{Arc, OnceLock};

use proto::message::Resting;
use tokio::sync::{mpsc, oneshot, watch};
use vmm::{Vm, VmError};

pub(crate) use born::{Memory, Seed};
pub(crate) use capture::{Copied, CopyOrder};
pub(crate) use command::{Begin, Command};
pub use end::Destroyed;
pub(crate) use gate::Entry;
pub(crate) use state::{Phase, Published};

use crate::{
    Result,
    activity::Activity,
    guest::{Awake, Channel, Patience},
    model::StoppedBy,
    node::Node,
    processes::Processes,
    record::{Record, State},
    sandbox_dir::SandboxDir,
    thermal::{Rules, policy::Step, schedule::Schedule},
};

/// Requests that may wait for a busy driver; more wait before they are queued.
const QUEUE: usize = 64;

/// A VM with or without a connection to its agent.
#[derive(Debug)]
pub(crate) struct Live {
    vm: Vm,
    channel: Option<Channel>,
    /// The guest was stopped in the middle of a write for which the host's disk had no room.
    starved: bool,
}

impl Live {
    fn new(vm: Vm, channel: Option<Channel>) -> Self {
        Self { vm, channel, starved: false }
    }
}

pub(crate) struct Driver {
    node: Arc<Node>,
    record: Record,
    directory: SandboxDir,
    /// What its image says, once that was needed.
    processes: OnceLock<Processes>,
    phase: Phase,
    activity: Arc<Activity>,
    awake: Arc<Awake>,
    schedule: Schedule,
    /// What was going on in the guest when it last went to sleep, if that is known.
    resting: Option<Arc<Resting>>,
    publish: watch::Sender<Published>,
    commands: mpsc::Receiver<Command>,
}

/// The ends that a handle keeps.
pub(crate) type Ends = (mpsc::Sender<Command>, watch::Receiver<Published>);

/// What makes a driver do something.
enum Event {
    Command(Command),
    VmEnded(VmError),
    Due(Step),
    ChannelLost,
    OutOfSpace,
    LookForSpace,
    NobodyLeft,
}

/// The driver of one sandbox, not yet started, and the ends by which it is reached.
pub(crate) fn prepare(
    node: Arc<Node>,
    record: Record,
    rules: Rules,
    (activity, awake): (Arc<Activity>, Arc<Awake>),
) -> (Driver, Ends) {
    let (sender, commands) = mpsc::channel(QUEUE);
    let phase = Phase::of_record(&record.state);
    let (publish, published) = watch::channel(Published::of(&record, &phase, None));
    let place = node.layout.sandbox(&record.id);
    let directory = SandboxDir::with_volumes(place, &node.layout, &record.spec.volumes);
    let schedule = Schedule::new(Arc::clone(&activity), rules);
    let driver = Driver {
        node,
        record,
        directory,
        processes: OnceLock::new(),
        phase,
        activity,
        awake,
        schedule,
        resting: None,
        publish,
        commands,
    };
    (driver, (sender, published))
}

impl Driver {
    pub(crate) async fn run(mut self, begin: Begin) {
        let goes_on = match begin {
            Begin::Create { contents, progress, reply } => {
                let created = self.create(contents, &progress).await;
                self.begun(created, reply).await
            }
            Begin::Copy { seed, progress, reply } => {
                let born = self.be_born(&seed, &progress).await;
                self.begun(born, reply).await
            }
            Begin::Recover => self.recover().await,
        };
        if goes_on {
            // Nobody was kept waiting by it while it was being made.
            self.activity.touch();
            self.serve().await;
        }
    }

    /// Tells how a new sandbox's beginning ended. After a failure nothing of it stays, or if that
    /// cannot be, its owner may destroy it.
    async fn begun(&mut self, begun: Result<()>, reply: oneshot::Sender<Result<()>>) -> bool {
        let goes_on = begun.is_ok() || self.remove_all().await.is_err();
        let _ = reply.send(begun);
        goes_on
    }

    async fn serve(&mut self) {
        loop {
            let goes_on = match self.next_event().await {
                Event::Command(command) => self.obey(command).await,
                Event::VmEnded(error) => {
                    self.vm_ended(error).await;
                    true
                }
                Event::Due(step) => {
                    self.fall_asleep(step).await;
                    true
                }
                Event::ChannelLost => {
                    self.reconnect().await;
                    true
                }
                Event::OutOfSpace => {
                    self.out_of_space();
                    true
                }
                Event::LookForSpace => {
                    self.look_for_space().await;
                    true
                }
                Event::NobodyLeft => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let Some(live) = self.phase.live() else {
            return self.commands.recv().await.map_or(Event::NobodyLeft, Event::Command);
        };
        let lost = async {
            match &live.channel {
                Some(channel) => channel.lost().await,
                None => std::future::pending().await,
            }
        };
        let due = self.schedule.due(Self::sleepiness(&self.phase), self.record.policy);
        tokio::select! {
            biased;
            ended = live.vm.ended() => Event::VmEnded(ended),
            command = self.commands.recv() => command.map_or(Event::NobodyLeft, Event::Command),
            () = lost => Event::ChannelLost,
            step = due => Event::Due(step),
            event = space::space(live) => event,
        }
    }

    /// Carries out one command; says whether the sandbox still exists for us afterwards.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Wake { caller, reply } => {
                let _ = reply.send(self.admit(caller).await);
            }
            Command::Look(reply) => {
                let _ = reply.send(self.admit_if_hot().await);
            }
            Command::Start { from, progress, reply } => {
                let started = self.start(from, &progress).await;
                self.activity.touch();
                let _ = reply.send(started);
            }
            Command::Stop(reply) => {
                let _ = reply.send(self.stop(StoppedBy::Owner).await);
            }
            Command::Pause(reply) => {
                let _ = reply.send(self.pause().await);
            }
            Command::Resume(reply) => {
                let resumed = self.resume().await;
                self.activity.touch();
                let _ = reply.send(resumed);
            }
            Command::Edit { edit, reply } => {
                let _ = reply.send(self.edit(&edit).await);
            }
            Command::Copy { order, reply } => {
                let _ = reply.send(self.copy(order).await);
            }
            Command::CopyVolume { slot, into, reply } => {
                let _ = reply.send(self.copy_volume(slot, into).await);
            }
            Command::GrowVolume { slot, bytes, reply } => {
                let _ = reply.send(self.grow_volume(slot, bytes).await);
            }
            Command::MakeRoom(reply) => {
                if matches!(self.phase, Phase::Hot(_) | Phase::Warm(_)) {
                    self.fall_asleep(Step::GoCold).await;
                }
                let _ = reply.send(Ok(matches!(self.phase, Phase::Cold)));
            }
            Command::Destroy(reply) => {
                let destroyed = self.destroy().await;
                let gone = destroyed.is_ok();
                let _ = reply.send(destroyed);
                return !gone;
            }
            Command::Release(reply) => {
                if let Some(live) = self.phase.take_live() {
                    live.vm.leave_running();
                }
                let _ = reply.send(());
                return false;
            }
        }
        true
    }

    /// Keeps the new state, then shows it.
    async fn enter(&mut self, state: State) -> Result<()> {
        self.keep(state).await?;
        self.show();
        Ok(())
    }

    /// Keeps the new state, which is shown later.
    async fn keep(&mut self, state: State) -> Result<()> {
        let generation = self.record.generation + 1;
        self.node.store.update_state(&self.record.id, generation, &state).await?;
        self.record.generation = generation;
        self.record.state = state;
        Ok(())
    }

    fn show(&self) {
        let snapshot_bytes = match self.directory.snapshot() {
            Ok(Some(snapshot)) => Some(snapshot.manifest.bytes),
            _ => None,
        };
        self.publish.send_replace(self.published(snapshot_bytes));
    }

    /// As [`show`](Self::show), where the snapshot is the one that it was.
    fn show_again(&self) {
        self.publish.send_modify(|shown| *shown = self.published(shown.snapshot_bytes));
    }

    fn published(&self, snapshot_bytes: Option<u64>) -> Published {
        let published = Published::of(&self.record, &self.phase, snapshot_bytes);
        let resting = self.resting.clone().filter(|_| published.sleeps());
        Published { resting, ..published }
    }

    /// As [`connect`](Self::connect), and shows it.
    async fn ensure_channel(&mut self) -> Result<()> {
        let connected = self.connect().await;
        self.show_again();
        connected
    }

    /// Connects to the agent if there is no connection, proves both sides and brings the guest's
    /// clock up to date.
    async fn connect(&mut self) -> Result<()> {
        let Phase::Hot(live) = &mut self.phase else { return Ok(()) };
        if let Some(channel) = &live.channel
            && !channel.session().is_closed()
        {
            let refreshed = channel.refresh().await;
            if refreshed.is_err() {
                // Nobody may be let in to a guest that believes it is still then; the next
                // operation calls it anew.
                channel.session().close();
                live.channel = None;
            }
            return refreshed;
        }
        live.channel = None;
        let channel = Channel::open(&live.vm, Patience::Running).await?;
        let jobs = channel.meet(self.record.id.as_str(), &self.record.identity).await?;
        self.awake.met(channel.session(), jobs);
        live.channel = Some(channel);
        Ok(())
    }

    /// The connection broke though the VM lives, for instance because the guest killed its agent's
    /// port. The next operation tries once more if this fails.
    async fn reconnect(&mut self) {
        if let Some(live) = self.phase.live_mut() {
            live.channel = None;
        }
        self.show();
        if let Err(error) = self.ensure_channel().await {
            tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                "the guest agent's connection is lost");
        }
    }

    fn running_state(&self, paused: bool) -> Result<State> {
        let live = self.phase.live().ok_or_else(|| self.not_running("used"))?;
        let handle = live.vm.handle();
        Ok(State::Running { pid: handle.pid, start_time: handle.start_time, paused })
    }
}
