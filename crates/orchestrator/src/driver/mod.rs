//! One task owns one sandbox.
//!
//! ```text
//! handles ── Command ──► Driver ── Published (watch) ──► views, fast path of operations
//!                          │
//!                          ├─ create.rs   nothing  ─► hot
//!                          ├─ stop.rs     hot, warm ─► cold
//!                          ├─ wake.rs     cold, failed ─► hot
//!                          └─ launch.rs   what all of them need
//! ```
//! Everything that changes a sandbox happens here, one thing after the other, so a hundred callers
//! that find it cold cause one wake, and nobody's leaving cancels anything half-made. Every change
//! is in the store before anybody is told.

mod adopt;
mod born;
mod capture;
mod create;
mod launch;
mod saved;
mod state;
mod stop;
mod wake;

use std::{path::PathBuf, sync::Arc, time::Duration};

use base::{clock, fault, process::Exit};
use proto::mux::Session;
use tokio::sync::{mpsc, oneshot, watch};
use vmm::{Vm, VmError};

pub(crate) use born::{Memory, Seed};
pub(crate) use capture::Copied;
pub(crate) use state::{Phase, Published};

use crate::{
    Error, Kind, Result,
    contents::Contents,
    facade::Progress,
    guest::{Awake, Channel, Patience},
    model::{Failure, SnapshotKind, StartFrom, StoppedBy},
    node::Node,
    record::{Record, State},
    sandbox_dir::SandboxDir,
};

/// Requests that may wait for a busy driver; more wait before they are queued.
const QUEUE: usize = 64;

/// How often a guest that waits for room on the host's disk is looked after.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);
/// How much room has to be there before it goes on, bytes.
const ROOM: u64 = 16 << 20;

/// What a driver is asked to do. A reply that nobody waits for any more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make it hot if it is not and give a session with its agent.
    Wake(oneshot::Sender<Result<Session>>),
    /// Start it as its owner asks.
    Start { from: Option<StartFrom>, progress: Progress, reply: oneshot::Sender<Result<StartFrom>> },
    /// Put it on disk.
    Stop(oneshot::Sender<Result<()>>),
    /// Stop its vCPUs.
    Pause(oneshot::Sender<Result<()>>),
    /// Let its vCPUs run.
    Resume(oneshot::Sender<Result<()>>),
    /// Make directories that share its disk, and copy its memory.
    Copy { kind: SnapshotKind, into: Vec<PathBuf>, reply: oneshot::Sender<Result<Copied>> },
    /// Remove it.
    Destroy(oneshot::Sender<Result<()>>),
    /// Let go of it; the VM runs on.
    Release(oneshot::Sender<()>),
}

/// How a driver begins.
#[derive(Debug)]
pub(crate) enum Begin {
    /// Make the sandbox and tell the caller.
    Create { contents: Contents, progress: Progress, reply: oneshot::Sender<Result<()>> },
    /// Let it go on as a copy of another and tell the caller.
    Copy { seed: Seed, progress: Progress, reply: oneshot::Sender<Result<()>> },
    /// Take it up as the store has it.
    Recover,
}

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
    phase: Phase,
    awake: Arc<Awake>,
    publish: watch::Sender<Published>,
    commands: mpsc::Receiver<Command>,
}

/// The ends that a handle keeps.
pub(crate) type Ends = (mpsc::Sender<Command>, watch::Receiver<Published>);

/// What makes a driver do something.
enum Event {
    Command(Command),
    VmEnded(VmError),
    ChannelLost,
    OutOfSpace,
    LookForSpace,
    NobodyLeft,
}

/// The driver of one sandbox, not yet started, and the ends by which it is reached.
pub(crate) fn prepare(node: Arc<Node>, record: Record, awake: Arc<Awake>) -> (Driver, Ends) {
    let (sender, commands) = mpsc::channel(QUEUE);
    let phase = Phase::of_record(&record.state);
    let (publish, published) = watch::channel(Published::of(&record, &phase, None));
    let directory = SandboxDir::at(node.layout.sandbox(&record.id));
    let driver = Driver { node, record, directory, phase, awake, publish, commands };
    (driver, (sender, published))
}

/// What a VM has to say about room on the host's disk. While a guest waits for room, nothing tells
/// us that there is some, so we look.
async fn space(live: &Live) -> Event {
    if live.starved {
        #[expect(clippy::disallowed_methods, reason = "there is no event for room on a disk")]
        tokio::time::sleep(LOOK_FOR_ROOM).await;
        return Event::LookForSpace;
    }
    match live.vm.out_of_space().await {
        Ok(()) => Event::OutOfSpace,
        Err(error) => {
            tracing::debug!(error = base::chain(&error), "no events from a monitor");
            std::future::pending().await
        }
    }
}

/// Why something could not be done with a VM: if it is gone, that is why.
async fn blame(vm: &Vm, error: Error) -> Error {
    match error.kind {
        Kind::Internal => vm.gone().await.map_or(error, Error::from),
        _ => error,
    }
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
        tokio::select! {
            biased;
            ended = live.vm.ended() => Event::VmEnded(ended),
            command = self.commands.recv() => command.map_or(Event::NobodyLeft, Event::Command),
            () = lost => Event::ChannelLost,
            event = space(live) => event,
        }
    }

    fn out_of_space(&mut self) {
        tracing::warn!(sandbox = %self.record.id,
            "the host's disk is full, the guest waits for room");
        if let Some(live) = self.phase.live_mut() {
            live.starved = true;
        }
    }

    /// Lets a guest that waits for room go on if there is some. If it is too little the guest is
    /// stopped again at the same place.
    async fn look_for_space(&mut self) {
        let free = base::files::free_bytes(&self.node.layout.sandboxes()).unwrap_or(0);
        if free < ROOM {
            return;
        }
        if let Phase::Hot(live) = &mut self.phase {
            live.starved = false;
            if let Err(error) = live.vm.resume().await {
                tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                    "a guest that waited for room could not go on");
            }
        }
    }

    /// Carries out one command; says whether the sandbox still exists for us afterwards.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Wake(reply) => {
                let _ = reply.send(self.wake().await);
            }
            Command::Start { from, progress, reply } => {
                let _ = reply.send(self.start(from, &progress).await);
            }
            Command::Stop(reply) => {
                let _ = reply.send(self.stop(StoppedBy::Owner).await);
            }
            Command::Pause(reply) => {
                let _ = reply.send(self.pause().await);
            }
            Command::Resume(reply) => {
                let _ = reply.send(self.resume().await);
            }
            Command::Copy { kind, into, reply } => {
                let _ = reply.send(self.copy(kind, into).await);
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
        let generation = self.record.generation + 1;
        self.node.store.update_state(&self.record.id, generation, &state).await?;
        self.record.generation = generation;
        self.record.state = state;
        self.show();
        Ok(())
    }

    fn show(&self) {
        let snapshot_bytes = match self.directory.snapshot() {
            Ok(Some(snapshot)) => Some(snapshot.manifest.bytes),
            _ => None,
        };
        self.publish.send_replace(Published::of(&self.record, &self.phase, snapshot_bytes));
    }

    async fn pause(&mut self) -> Result<()> {
        match &self.phase {
            Phase::Warm(_) => Ok(()),
            Phase::Hot(live) => {
                live.vm.pause().await?;
                self.phase.cool_down();
                let state = self.running_state(true)?;
                self.enter(state).await
            }
            _ => Err(self.not_running("paused")),
        }
    }

    async fn resume(&mut self) -> Result<()> {
        match &self.phase {
            Phase::Hot(_) => Ok(()),
            Phase::Warm(_) => self.warm_to_hot().await,
            _ => Err(self.not_running("resumed")),
        }
    }

    async fn warm_to_hot(&mut self) -> Result<()> {
        if let Phase::Warm(live) = &self.phase {
            live.vm.resume().await?;
        }
        self.phase.warm_up();
        let state = self.running_state(false)?;
        self.enter(state).await?;
        self.ensure_channel().await
    }

    /// Connects to the agent if there is no connection, proves both sides and brings the guest's
    /// clock up to date.
    async fn ensure_channel(&mut self) -> Result<()> {
        let Phase::Hot(live) = &mut self.phase else { return Ok(()) };
        if live.channel.as_ref().is_none_or(|c| c.session().is_closed()) {
            live.channel = None;
            let channel = Channel::open(&live.vm, Patience::Running).await?;
            let jobs = channel.meet(self.record.id.as_str(), &self.record.identity).await?;
            self.awake.met(channel.session(), jobs);
            live.channel = Some(channel);
        } else if let Some(channel) = &live.channel {
            channel.refresh().await?;
        }
        self.show();
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

    /// The VM is gone and nobody asked for it.
    async fn vm_ended(&mut self, error: VmError) {
        tracing::warn!(sandbox = %self.record.id, error = base::chain(&error), "the VM ended");
        let cause = match error {
            VmError::Ended { exit: Exit::Code(0), .. } => {
                "the guest turned itself off, rebooted or panicked".to_owned()
            }
            other => other.to_string(),
        };
        self.fail(cause).await;
    }

    async fn fail(&mut self, cause: String) {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        self.node.clean_run(self.record.id.as_str());
        let taken_at = match self.directory.snapshot() {
            Ok(Some(snapshot)) => Some(snapshot.manifest.facts.taken_at),
            _ => None,
        };
        let failure = Failure { cause, snapshot_taken_at: taken_at };
        self.phase = Phase::Failed;
        if let Err(error) = self.enter(State::Failed(failure)).await {
            tracing::error!(sandbox = %self.record.id, error = base::chain(&error),
                "a failed sandbox could not be recorded");
            self.show();
        }
    }

    /// Removes it. From the moment that this is recorded it can only be repeated, by its owner or
    /// by the next start of the daemon.
    async fn destroy(&mut self) -> Result<()> {
        if !matches!(self.record.state, State::Destroying) {
            self.enter(State::Destroying).await?;
        }
        let _ = fault::point("destroy.recorded");
        self.remove_all().await
    }

    /// Removes everything that there is of the sandbox. What cannot be removed now keeps its row.
    async fn remove_all(&mut self) -> Result<()> {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        self.phase = Phase::Gone;
        let name = self.record.id.as_str().to_owned();
        self.node.clean_run(&name);
        let _ = fault::point("destroy.killed");
        let directory = self.directory.clone();
        let removed = crate::node::blocking(move || directory.remove()).await;
        let removed = match removed {
            Ok(()) => self.node.store.delete_sandbox(&self.record.id).await,
            Err(error) => Err(error),
        };
        match &removed {
            Ok(()) => self.node.registry.remove(&self.record.id),
            Err(error) => tracing::error!(
                sandbox = name,
                error = base::chain(error),
                "a destroyed sandbox is not wholly removed yet"
            ),
        }
        removed
    }

    fn running_state(&self, paused: bool) -> Result<State> {
        let live = self.phase.live().ok_or_else(|| self.not_running("used"))?;
        let handle = live.vm.handle();
        Ok(State::Running { pid: handle.pid, start_time: handle.start_time, paused })
    }

    fn not_running(&self, what: &str) -> Error {
        let name = &self.record.name;
        match &self.record.state {
            State::Failed(failure) => self.failed_error(failure),
            _ => Error::new(
                Kind::WrongState,
                format!("{name} is not running, so it cannot be {what}"),
            )
            .hint(format!("start it: bhatti start {name}")),
        }
    }

    fn failed_error(&self, failure: &Failure) -> Error {
        let name = &self.record.name;
        let hint = match failure.snapshot_taken_at {
            Some(at) => {
                let ago = (clock::unix_seconds() - at).max(0);
                format!(
                    "go on from its disk (processes are lost): bhatti start {name} --from disk, or \
                     from its snapshot of {ago} s ago (later changes are lost): bhatti start \
                     {name} --from snapshot"
                )
            }
            None => format!("go on from its disk (processes are lost): bhatti start {name}"),
        };
        Error::new(Kind::SandboxFailed, format!("{name} has failed: {}", failure.cause)).hint(hint)
    }
}
