//! The handle through which everybody but the driver deals with a sandbox.

mod files;
mod ports;
mod programs;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use base::ids::Name;
use proto::mux::Session;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Error, Kind, Result,
    activity::{Activity, ActivityView, Busy, Work},
    driver::{self, Begin, Command, Copied, Published},
    facade::{Progress, Started},
    guest::{Awake, Witness},
    model::{SandboxView, Sleeps, SnapshotKind, Spec, StartFrom},
    node::Node,
    record::Record,
};

/// How often an operation is tried again because the session that it was given ended before it
/// began, which happens when a stop comes in between.
const ATTEMPTS: usize = 3;

/// One sandbox. Cheap to clone; operations on a sandbox that sleeps wake it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    record: Record,
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
        let (driver, (commands, published)) =
            driver::prepare(Arc::clone(node), record.clone(), Arc::clone(&awake));
        let shared = Shared { record, commands, published, activity, awake };
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
        Self { shared: Arc::new(Shared { record, commands, published, activity, awake }) }
    }

    /// What it was made as. Its id, owner and identity never change; the rest may have.
    pub(crate) fn record(&self) -> &Record {
        &self.shared.record
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
            sleeps: Sleeps::default(),
        }
    }

    /// Waits until a create that is under way has ended. An error if it failed.
    pub(crate) async fn created(&self) -> Result<()> {
        let mut published = self.shared.published.clone();
        let settled = published.wait_for(|p| p.status != crate::model::Status::Creating).await;
        settled.map(drop).map_err(|_| self.gone())
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

    /// Makes directories that share its disk as it is now, and copies its memory if that is asked
    /// for.
    pub(crate) async fn copy(&self, kind: SnapshotKind, into: Vec<PathBuf>) -> Result<Copied> {
        self.ask(|reply| Command::Copy { kind, into, reply }).await
    }

    /// Removes the sandbox and all that belongs to it.
    pub async fn destroy(&self) -> Result<()> {
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

    /// A session with the agent for one operation, which is counted until the second part of the
    /// answer is dropped.
    async fn begin(&self, work: Work) -> Result<(Session, Busy)> {
        let busy = self.shared.activity.begin(work)?;
        Ok((self.session().await?, busy))
    }

    /// A session with the agent: at once if the sandbox is hot, else by waking it.
    async fn session(&self) -> Result<Session> {
        for _ in 0..ATTEMPTS {
            if let Some(session) = self.hot_session() {
                return Ok(session);
            }
            let session = self.ask(Command::Wake).await?;
            if !session.is_closed() {
                return Ok(session);
            }
        }
        Err(Error::new(Kind::AgentUnreachable, "the sandbox is stopped again and again"))
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
