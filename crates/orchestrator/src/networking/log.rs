//! What sandboxes tried to reach, and what they may never.

use net::{
    address::Pool,
    egress::{Attempt, Forbidden},
    policy::{Egress, Mode},
};

use super::Networking;
use crate::record::Record;

/// What a sandbox tried to reach.
#[derive(Debug)]
pub struct EgressLog {
    /// What it tried, the latest last.
    pub attempts: Vec<Attempt>,
    /// A policy that would let all of it through that its user's policy does.
    pub suggested: Egress,
    /// What of it the user's policy does not let through; only an admin may change that.
    pub beyond: Option<Egress>,
}

impl Networking {
    /// What a sandbox tried to reach since the daemon started.
    pub(crate) fn log(&self, record: &Record) -> EgressLog {
        let list = Egress { mode: Mode::Allowlist, ..Egress::default() };
        let (attempts, all) = match (self.open.get(), self.place(record)) {
            (Some(open), Some(place)) => {
                (open.service.attempts(place), open.service.suggest(place))
            }
            _ => (Vec::new(), list.clone()),
        };
        let ceiling = self.store.user_by_id(&record.owner).and_then(|user| user.network.ceiling);
        let Some(ceiling) = ceiling else {
            return EgressLog { attempts, suggested: all, beyond: None };
        };
        let forbidden = self.forbidden();
        let (suggested, beyond) = ceiling.part(all, |range| forbidden.touches(range));
        EgressLog { attempts, suggested, beyond: (beyond != list).then_some(beyond) }
    }

    /// What nobody may reach unless an admin opens it.
    pub(crate) fn forbidden(&self) -> Forbidden {
        match &self.settings {
            Some(settings) => Forbidden::new(settings.pool, &settings.forbidden),
            None => Forbidden::new(Pool::default(), &[]),
        }
    }
}
