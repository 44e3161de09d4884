//! When sandboxes sleep: hot, then warm with paused vCPUs, then cold on disk.
//!
//! ```text
//! activity, limits ──► policy (pure) ──► schedule (a deadline) ──► driver/thermal.rs does it
//! host's memory ─────► pressure: the idlest go cold before their time
//! ```
//! Every driver decides for its own sandbox, so all are decided at once and none is looked for.

pub(crate) mod policy;
pub(crate) mod pressure;
pub(crate) mod schedule;

use std::time::Duration;

use base::ids::UserId;
use tokio::sync::watch;

use crate::{
    model::{IdleLimit, IdlePolicy, Policy, Sleeps},
    store::Store,
};

/// When idle vCPUs are paused if nobody says otherwise. Waking costs a millisecond, so soon.
const WARM: Duration = Duration::from_secs(30);
/// When an idle sandbox goes to disk if nobody says otherwise. Waking costs a restore.
const COLD: Duration = Duration::from_secs(30 * 60);

/// What holds for one sandbox where it does not say otherwise itself.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    owner: UserId,
    users: Option<Store>,
    node: IdlePolicy,
}

impl Rules {
    /// `node` wins over the defaults of this program.
    pub(crate) fn new(owner: UserId, users: Store, node: IdlePolicy) -> Self {
        Self { owner, users: Some(users), node }
    }

    /// The defaults of this program.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn plain(owner: UserId) -> Self {
        Self { owner, users: None, node: IdlePolicy::default() }
    }

    /// What follows for a sandbox that says `policy`. Memory only.
    pub(crate) fn sleeps(&self, policy: Policy) -> Sleeps {
        let user = self.users.as_ref().and_then(|users| users.user_by_id(&self.owner));
        policy::sleeps(policy, user.map(|user| user.idle).unwrap_or_default(), self.node)
    }

    /// Changes whenever [`sleeps`](Self::sleeps) may say something else.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        match &self.users {
            Some(users) => users.user_changes(),
            None => watch::channel(0).1,
        }
    }
}

/// A limit as a time; `None` is never.
fn time(limit: IdleLimit) -> Option<Duration> {
    match limit {
        IdleLimit::After(seconds) => Some(Duration::from_secs(seconds)),
        IdleLimit::Never => None,
    }
}
