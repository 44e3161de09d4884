//! What the name server, the proxy and the log know in common.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

pub(crate) use super::quota::{Quota, Turn};
use super::{
    Locate,
    bindings::Bindings,
    decide::{Verdict, decide_early},
    directory::Directory,
    forbidden,
    log::{Log, Target},
};
use crate::{
    address::Place,
    dns::{Forwarder, Upstreams},
    policy::{Egress, Reach},
};

/// Most questions in flight of one sandbox, and of all.
const QUESTIONS_EACH: usize = 256;
const QUESTIONS_ALL: usize = 4096;
/// Most connections through the proxy of one sandbox, and of all. Each needs two descriptors.
const CONNECTIONS_EACH: usize = 1024;
const CONNECTIONS_ALL: usize = 16 * 1024;

pub(crate) struct Guard {
    pub(crate) directory: Directory,
    pub(crate) bindings: Bindings,
    pub(crate) log: Log,
    pub(crate) questions: Arc<Quota>,
    pub(crate) connections: Arc<Quota>,
    pub(crate) forwarder: Forwarder,
    locate: Locate,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Guard {
    pub(crate) fn new(directory: Directory, locate: Locate, upstreams: Upstreams) -> Self {
        Self {
            directory,
            bindings: Bindings::default(),
            log: Log::default(),
            questions: Quota::new(QUESTIONS_EACH, QUESTIONS_ALL),
            connections: Quota::new(CONNECTIONS_EACH, CONNECTIONS_ALL),
            forwarder: Forwarder::new(upstreams),
            locate,
        }
    }

    /// Who has this source address.
    pub(crate) fn locate(&self, source: Ipv4Addr) -> Option<Place> {
        (self.locate)(source)
    }

    pub(crate) fn set(&self, place: Place, name: &str, reach: Reach) {
        self.bindings.open(place);
        self.log.open(place);
        self.directory.set(place, name, reach);
    }

    pub(crate) fn forget(&self, place: Place) {
        self.directory.forget(place);
        self.bindings.close(place);
        self.log.close(place);
    }

    /// Whether a name may lead a sandbox to an address.
    pub(crate) fn may_lead_to(&self, policy: &Egress, address: Ipv4Addr) -> bool {
        forbidden::is_in_cidrs(policy, address) || !self.directory.forbidden().contains(address)
    }

    /// Asks where names lead that are on a sandbox's list, and remembers it as if it had asked.
    pub(crate) async fn bind_now(&self, place: Place, names: &[Arc<str>]) {
        let Some(policy) = self.directory.policy(place) else { return };
        let policy = policy.borrow().holds.clone();
        let Some(_turn) = self.questions.take(place) else { return };
        for name in names {
            if policy.hosts.iter().any(|pattern| pattern.matches(name)) {
                let mut answers = self.forwarder.addresses(name).await;
                answers.retain(|(address, _)| self.may_lead_to(&policy, *address));
                self.bindings.bind(place, name, &answers);
            }
        }
    }

    /// Notes a packet that the filter told of.
    pub(crate) fn note_packet(
        &self,
        source: Ipv4Addr,
        to: SocketAddrV4,
        protocol: super::Protocol,
        verdict: Verdict,
    ) {
        let Some(place) = self.locate(source) else { return };
        let reach = self.directory.policy(place).map(|policy| Arc::clone(&policy.borrow()));
        let verdict = match reach {
            Some(reach) => verdict.blame(&reach, |asked| {
                let early = decide_early(asked, self.directory.forbidden(), to);
                early.is_some_and(|verdict| verdict.is_allowed())
            }),
            None => verdict,
        };
        let target = Target {
            address: Some(*to.ip()),
            port: to.port(),
            protocol,
            host: self.bindings.names(place, *to.ip()).first().cloned(),
            allowed: verdict.is_allowed(),
            reason: verdict.reason().clone(),
        };
        self.log.record(place, target);
    }
}
