//! The handle through which everybody but the driver deals with a sandbox.

mod files;
mod ports;
mod programs;
#[cfg(test)]
mod tests;

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use base::ids::Name;
use proto::{message::Resting, mux::Session};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Error, Kind, Result,
    activity::{Activity, ActivityView, Busy, Work},
    driver::{self, Begin, Command, Copied, CopyOrder, Destroyed, Entry, Published},
    facade::{Progress, Started},
    guest::{Awake, Witness},
    model::{Caller, Edit, SandboxView, SnapshotKind, Spec, StartFrom, Thermal},
    node::Node,
    record::Record,
    sandbox_dir::Readers,
    thermal::Rules,
};

/// How often an operation is tried again because the session that it was given ended before it
/// began, which happens when a guest's agent loses its port again and again.
const ATTEMPTS: usize = 3;

/// One sandbox. Cheap to clone; operations on a sandbox that sleeps wake it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: Weak<Node>,
    record: Record,
    ip: Option<Ipv4Addr>,
    rules: Rules,
    commands: mpsc::Sender<Command>,
    published: watch::Receiver<Published>,
    activity: Arc<Activity>,
    awake: Arc<Awake>,
}

impl Sandbox {
    /// Starts the driver and registers the sandbox.
    pub(crate) fn start_driver(node: &Arc<Node>, record: Record, begin: Begin) -> Self {
        let activity = Activity::new();
        let awake = Awake::new(Arc::clone(&activity));
        let rules = Rules::new(record.owner.clone(), node.store.clone(), node.settings.idle);
        let counts = (Arc::clone(&activity), Arc::clone(&awake));
        let (driver, (commands, published)) =
            driver::prepare(Arc::clone(node), record.clone(), rules.clone(), counts);
        let ip = node.networking.interface(&record).map(|interface| interface.address);
        let weak = Arc::downgrade(node);
        let shared = Shared { node: weak, record, ip, rules, commands, published, activity, awake };
        let sandbox = Self { shared: Arc::new(shared) };
        node.registry.insert(sandbox.clone());
        // Only now, because a driver that gives up takes its sandbox out of the registry.
        tokio::spawn(driver.run(begin));
        sandbox
    }

    /// A sandbox that is driven by whoever reads `commands`.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn without_driver(
        record: Record,
        commands: mpsc::Sender<Command>,
        published: watch::Receiver<Published>,
    ) -> Self {
        let activity = Activity::new();
        let awake = Awake::new(Arc::clone(&activity));
        let rules = Rules::plain(record.owner.clone());
        Self {
            shared: Arc::new(Shared {
                node: Weak::new(),
                record,
                ip: None,
                rules,
                commands,
                published,
                activity,
                awake,
            }),
        }
    }

    /// What it was made as. Its id, owner and identity never change; the rest may have.
    pub(crate) fn record(&self) -> &Record {
        &self.shared.record
    }

    /// Whether it is a build's, which nobody sees.
    pub(crate) fn is_for_build(&self) -> bool {
        self.shared.record.spec.build.is_some()
    }

    /// The name that it has now.
    pub(crate) fn name(&self) -> Name {
        self.shared.published.borrow().name.clone()
    }

    /// The sandbox as it is now. Never wakes it.
    pub fn view(&self) -> SandboxView {
        let record = &self.shared.record;
        let now = self.shared.published.borrow();
        SandboxView {
            id: record.id.clone(),
            name: now.name.clone(),
            owner: record.owner.clone(),
            spec: Spec::clone(&now.spec),
            status: now.status,
            thermal: now.thermal,
            failure: now.failure.clone(),
            generation: now.generation,
            snapshot_bytes: now.snapshot_bytes,
            created_at: record.created_at,
            stopped_at: now.stopped_at,
            activity: self.shared.activity.view(),
            policy: now.policy,
            sleeps: self.shared.rules.sleeps(now.policy),
            ip: self.shared.ip,
        }
    }

    /// Waits until a create that is under way has ended. An error if it failed.
    pub(crate) async fn created(&self) -> Result<()> {
        let mut published = self.shared.published.clone();
        let settled = published.wait_for(|p| p.status != crate::model::Status::Creating).await;
        settled.map(drop).map_err(|_| self.gone())
    }

    /// Waits until the host's disk has no room for what the guest writes, so that it stands still.
    /// Never ends if the sandbox does before.
    pub(crate) async fn starved(&self) {
        let mut published = self.shared.published.clone();
        if published.wait_for(|now| now.starved).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Puts the whole VM on disk and frees its memory.
    ///
    /// # Errors
    /// If it cannot be saved it runs on and nothing is lost.
    pub async fn stop(&self) -> Result<SandboxView> {
        self.ask(Command::Stop).await?;
        Ok(self.view())
    }

    /// Starts a stopped or failed sandbox; `from` says from what, if the owner minds.
    pub async fn start(&self, from: Option<StartFrom>, progress: Progress) -> Result<Started> {
        let from = self.ask(|reply| Command::Start { from, progress, reply }).await?;
        Ok(Started { sandbox: self.view(), from })
    }

    /// Stops the vCPUs; the next operation lets them run again.
    pub async fn pause(&self) -> Result<SandboxView> {
        self.ask(Command::Pause).await?;
        Ok(self.view())
    }

    /// Lets paused vCPUs run.
    pub async fn resume(&self) -> Result<SandboxView> {
        self.ask(Command::Resume).await?;
        Ok(self.view())
    }

    /// Changes what its owner may change. Wakes it only to keep it hot, and then not if its owner
    /// has stopped it.
    pub(crate) async fn edit(&self, edit: Edit) -> Result<SandboxView> {
        self.ask(|reply| Command::Edit { edit, reply }).await?;
        Ok(self.view())
    }

    /// How long it has been idle, if it takes memory and may go to disk.
    pub(crate) fn could_make_room(&self) -> Option<Duration> {
        let thermal = self.shared.published.borrow().thermal?;
        let policy = self.shared.published.borrow().policy;
        let may = thermal != Thermal::Cold && self.shared.rules.sleeps(policy).cold.is_some();
        self.shared.activity.idle().filter(|_| may)
    }

    /// Goes to disk if nothing is under way, and says whether it did.
    pub(crate) async fn make_room(&self) -> Result<bool> {
        self.ask(Command::MakeRoom).await
    }

    /// Makes directories that share its disk as it is now, and copies its memory if that is asked
    /// for.
    pub(crate) async fn copy(
        &self,
        kind: SnapshotKind,
        into: Vec<PathBuf>,
        readers: Readers,
    ) -> Result<Copied> {
        let order = CopyOrder { kind, into, readers };
        self.ask(|reply| Command::Copy { order, reply }).await
    }

    /// Makes a directory that shares one of its volumes, as if that were unmounted now.
    pub(crate) async fn copy_volume(&self, slot: u32, into: PathBuf) -> Result<()> {
        self.ask(|reply| Command::CopyVolume { slot, into, reply }).await
    }

    /// Makes one of its volumes larger while it is mounted.
    pub(crate) async fn grow_volume(&self, slot: u32, bytes: u64) -> Result<()> {
        self.ask(|reply| Command::GrowVolume { slot, bytes, reply }).await
    }

    /// Removes the sandbox and all that belongs to it.
    pub async fn destroy(&self) -> Result<Destroyed> {
        self.ask(Command::Destroy).await
    }

    /// Lets go of the sandbox; its VM runs on.
    pub(crate) async fn release(&self) {
        let (reply, released) = oneshot::channel();
        if self.shared.commands.send(Command::Release(reply)).await.is_ok() {
            let _ = released.await;
        }
    }

    /// What is going on in it. Never wakes it.
    pub fn activity(&self) -> ActivityView {
        self.shared.activity.view()
    }

    /// What is counted of it.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> &Arc<Activity> {
        &self.shared.activity
    }

    /// A session with the agent for one operation of the owner's, which is counted until the second
    /// part of the answer is dropped.
    async fn begin(&self, work: Work) -> Result<(Session, Busy)> {
        self.begin_for(Caller::Owner, work).await
    }

    /// As [`begin`](Self::begin): at once if the sandbox is hot, else by waking it.
    async fn begin_for(&self, caller: Caller, work: Work) -> Result<(Session, Busy)> {
        let mut busy = self.shared.activity.begin(work)?;
        // Only now that it is counted, so that the driver cannot miss it.
        if let Some(session) = self.hot_session() {
            return Ok((session, busy));
        }
        busy.waits();
        for _ in 0..ATTEMPTS {
            let entry = self.ask(|reply| Command::Wake { caller, reply }).await?;
            if let Some(session) = enter(entry, &mut busy) {
                return Ok((session, busy));
            }
        }
        Err(Error::new(Kind::AgentUnreachable, "the guest agent is lost again and again"))
    }

    /// A session for a question that must not wake the sandbox, if it does not sleep.
    async fn look(&self) -> Result<Option<(Session, Busy)>> {
        let mut busy = self.shared.activity.begin(Work::Control)?;
        if let Some(session) = self.hot_session() {
            return Ok(Some((session, busy)));
        }
        busy.waits();
        if self.shared.published.borrow().sleeps() {
            return Ok(None);
        }
        let Some(entry) = self.ask(Command::Look).await? else { return Ok(None) };
        Ok(enter(entry, &mut busy).map(|session| (session, busy)))
    }

    /// What was going on in the guest when it fell asleep.
    fn resting(&self) -> Result<Arc<Resting>> {
        let resting = self.shared.published.borrow().resting.clone();
        resting.ok_or_else(|| {
            let name = self.name();
            let message = format!("{name} sleeps, and what runs in it is not known");
            Error::new(Kind::WrongState, message).hint(format!("wake it: bhatti start {name}"))
        })
    }

    /// Explains the loss of a session in the middle of an operation.
    fn witness(&self) -> Witness {
        Witness::new(self.name(), self.shared.published.clone())
    }

    /// A session with the agent if the sandbox is hot.
    fn hot_session(&self) -> Option<Session> {
        let session = self.shared.published.borrow().session.clone();
        session.filter(|session| !session.is_closed())
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        if self.shared.commands.send(command(reply)).await.is_err() {
            return Err(self.gone());
        }
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> Error {
        let name = self.name();
        Error::new(Kind::SandboxNotFound, format!("sandbox {name} does not exist any more"))
    }
}

/// Counts an operation that the driver has let in; `None` if the session ended meanwhile.
fn enter(entry: Entry, busy: &mut Busy) -> Option<Session> {
    let Entry { session, starting } = entry;
    if let Some(starting) = starting {
        busy.enters(starting);
    }
    (!session.is_closed()).then_some(session)
}
