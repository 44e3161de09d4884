//! How busy the guest is: counts of what goes on, and who wants to know of changes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::message::{Activity, ErrorCode, Response, WireError};
use proto::mux::{RecvHalf, SendHalf};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::agent::{Agent, refuse};

/// Commands in the foreground that may run at once.
pub(crate) const EXECS_MAX: u32 = 1000;

/// Open connections to ports.
pub(crate) const TUNNELS_MAX: u32 = 256;

/// Streams that may wait for changes of what goes on at once.
const WATCHERS_MAX: u32 = 16;

/// How long changes are gathered before they are told, so that short commands cost nothing more.
const GATHER: Duration = Duration::from_millis(50);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// A command in the foreground runs.
    Command,
    /// A session has a client.
    Attachment,
    /// A connection to a port is open.
    Tunnel,
    /// A detached job runs that keeps the sandbox awake.
    KeepAwake,
    /// Somebody reads what a job has written.
    LogReader,
    /// Somebody waits for changes.
    Watcher,
}

/// How many of each there are now.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    commands: AtomicU32,
    attachments: AtomicU32,
    tunnels: AtomicU32,
    keep_awake: AtomicU32,
    log_readers: AtomicU32,
    watchers: AtomicU32,
    changed: Notify,
}

impl Counts {
    fn of(&self, what: Counted) -> &AtomicU32 {
        match what {
            Counted::Command => &self.commands,
            Counted::Attachment => &self.attachments,
            Counted::Tunnel => &self.tunnels,
            Counted::KeepAwake => &self.keep_awake,
            Counted::LogReader => &self.log_readers,
            Counted::Watcher => &self.watchers,
        }
    }

    fn tell(&self) {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// What the host is told of.
    pub(crate) fn activity(&self, idle: Duration) -> Activity {
        let count = |what| self.of(what).load(Ordering::Relaxed);
        Activity {
            running: count(Counted::Command),
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            attached: count(Counted::Attachment),
            tunnels: count(Counted::Tunnel),
            keep_awake: count(Counted::KeepAwake),
        }
    }
}

/// Held for as long as something counts.
pub(crate) struct Held {
    agent: Arc<Agent>,
    what: Counted,
}

impl Held {
    /// Counts one more.
    pub(crate) fn new(agent: &Arc<Agent>, what: Counted) -> Self {
        agent.counts.of(what).fetch_add(1, Ordering::Relaxed);
        agent.counts.tell();
        Self { agent: Arc::clone(agent), what }
    }

    /// Counts one more unless there are `max` of this kind.
    ///
    /// # Errors
    /// There are; `name` says of what.
    pub(crate) fn within(
        agent: &Arc<Agent>,
        what: Counted,
        max: u32,
        name: &str,
    ) -> Result<Self, WireError> {
        if agent.counts.of(what).load(Ordering::Relaxed) >= max {
            return Err(refuse(ErrorCode::Limit, format!("there are {max} {name} already")));
        }
        Ok(Self::new(agent, what))
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.what).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.agent.counts.of(self.what).fetch_sub(1, Ordering::Relaxed);
        if self.what != Counted::Watcher {
            self.agent.touch();
        }
        self.agent.counts.tell();
    }
}

/// Tells of what goes on, now and whenever it changes, until the host drops the stream.
pub(crate) async fn watch(agent: &Arc<Agent>, mut send: SendHalf, mut recv: RecvHalf) {
    let _watcher = match Held::within(agent, Counted::Watcher, WATCHERS_MAX, "watchers") {
        Ok(watcher) => watcher,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
            return;
        }
    };
    let gone = async { while let Ok(Some(_)) = recv.recv().await {} };
    tokio::select! {
        () = gone => {}
        () = tell_changes(agent, &mut send) => {}
    }
}

async fn tell_changes(agent: &Agent, send: &mut SendHalf) {
    let told = |activity: &Activity| Activity { idle_ms: 0, ..*activity };
    let mut last = None;
    loop {
        let now = agent.activity();
        if last != Some(told(&now)) {
            last = Some(told(&now));
            if send.send_json(&Response::Activity(now)).await.is_err() {
                return;
            }
        }
        until(&agent.counts.changed, || (last != Some(told(&agent.activity()))).then_some(()))
            .await;
        // What lasts no longer than this is not worth telling.
        let _ = timeout(GATHER, std::future::pending::<()>()).await;
    }
}

/// Waits until `ready` answers something; it is asked again with each notification.
pub(crate) async fn until<T>(notify: &Notify, mut ready: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut notified = pin!(notify.notified());
        // From here on no notification is missed.
        notified.as_mut().enable();
        if let Some(found) = ready() {
            return found;
        }
        notified.await;
    }
}
