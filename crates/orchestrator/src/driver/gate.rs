//! The gate between operations and what the driver does to the VM beneath them.
//!
//! ```text
//! operation: count itself ──► take the published session, or have the driver wake the sandbox
//! driver:    take the session back ──► look at the counts ──► pause or stop, or give it again
//! ```
//! Whichever comes first, one of them sees the other. Who finds the gate shut waits in the driver's
//! queue and is served after what shut it.

use std::{sync::Arc, time::Duration};

use base::files;
use proto::{message::Resting, mux::Session};
use tokio::{sync::watch, time::timeout};

use super::{Driver, Phase, Published};
use crate::{
    Error, Kind, Result,
    activity::{Activity, Starting},
    guest,
    model::{Caller, StoppedBy},
    record::State,
};

/// How long an owner's pause or stop waits for operations that have just begun.
const HELD: Duration = Duration::from_secs(2);

/// What was going on in a warm guest, below its sockets. It need not survive the host.
const RESTING: &str = "resting.json";

/// A way into the guest that the driver gives to one operation.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) session: Session,
    /// Made before the operation learns of the session, so that it counts as if it had found the
    /// gate open.
    pub(crate) starting: Option<Starting>,
}

/// Takes the session back.
fn shut(publish: &watch::Sender<Published>) {
    publish.send_modify(|published| {
        published.closing = true;
        published.session = None;
    });
}

/// Takes the session back and says whether nobody has it.
fn shut_if_quiet(publish: &watch::Sender<Published>, activity: &Activity) -> bool {
    shut(publish);
    activity.is_quiet()
}

impl Driver {
    /// Shuts the gate for something that nobody asked for. If anything at all is under way it is
    /// open again, and the answer is no.
    pub(super) fn shut_if_quiet(&self) -> bool {
        let quiet = shut_if_quiet(&self.publish, &self.activity);
        if !quiet {
            self.show_again();
        }
        quiet
    }

    /// Shuts the gate for its owner: operations that came through are answered first, if the guest
    /// answers soon. Whoever shuts it has a new state shown in the end, which opens it.
    pub(super) async fn shut(&self) {
        shut(&self.publish);
        let _ = timeout(HELD, self.activity.settled()).await;
    }

    /// Wakes the sandbox for one operation.
    pub(super) async fn admit(&mut self, caller: Caller) -> Result<Entry> {
        if caller == Caller::Public && self.is_stopped_by_owner() {
            let name = &self.record.name;
            let message = format!("{name} was stopped by its owner");
            return Err(Error::new(Kind::WrongState, message)
                .hint(format!("its owner can start it: bhatti start {name}")));
        }
        let session = self.wake().await?;
        Ok(Entry { session, starting: Some(self.activity.start()) })
    }

    /// A way in if the sandbox is hot. Never wakes it.
    pub(super) async fn admit_if_hot(&mut self) -> Result<Option<Entry>> {
        match &self.phase {
            Phase::Hot(_) => self.admit(Caller::Owner).await.map(Some),
            Phase::Warm(_) | Phase::Cold => Ok(None),
            Phase::Beginning | Phase::Failed | Phase::Gone => Err(self.not_running("looked into")),
        }
    }

    fn is_stopped_by_owner(&self) -> bool {
        matches!(self.record.state, State::Stopped { by: StoppedBy::Owner, .. })
    }

    /// Asks the guest what is going on in it, for those who ask while it sleeps. The gate is shut.
    pub(super) async fn come_to_rest(&mut self, hang_up: bool) -> Option<Arc<Resting>> {
        let session = self.phase.live()?.channel.as_ref()?.session();
        match guest::rest(session, hang_up).await {
            Ok(resting) => Some(Arc::new(resting)),
            Err(error) => {
                tracing::debug!(sandbox = %self.record.id, error = base::chain(&error),
                    "the guest does not say what is going on in it");
                None
            }
        }
    }

    /// What those are told who ask while it sleeps; shown with the next state.
    pub(super) fn set_resting(&mut self, resting: Option<Arc<Resting>>) {
        self.resting = resting;
    }

    /// Keeps what a guest that is about to be paused says for the next daemon. Without it that
    /// daemon knows nothing, which is no harm.
    pub(super) fn keep_resting(&self, resting: Option<&Resting>) {
        let path = self.node.layout.run(self.record.id.as_str()).join(RESTING);
        let kept = match resting.map(serde_json::to_vec) {
            Some(Ok(json)) => fs_err::write(path, json),
            Some(Err(error)) => Err(error.into()),
            None => files::remove_any(&path),
        };
        if let Err(error) = kept {
            tracing::debug!(sandbox = %self.record.id, %error, "what rests is not kept");
        }
    }

    /// What an earlier daemon kept of a guest that is still paused.
    pub(super) fn kept_resting(&self) -> Option<Arc<Resting>> {
        let path = self.node.layout.run(self.record.id.as_str()).join(RESTING);
        serde_json::from_slice(&fs_err::read(path).ok()?).ok().map(Arc::new)
    }
}

#[cfg(test)]
mod tests;
