//! What sandboxes tried to reach: a bounded list for each, in which repetition is counted.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::decide::{Reason, Verdict};
use crate::address::Place;

/// Most different attempts that are remembered of one sandbox.
const ATTEMPTS_MAX: usize = 512;

/// What an attempt was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// A question to our name server; it has no address, and port 0.
    Dns,
    Tcp,
    Udp,
    Icmp,
    /// Another protocol of the internet, by its number.
    Other(u8),
}

/// What was tried. The same target again is only counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// None for a question to the name server.
    pub address: Option<Ipv4Addr>,
    /// Zero where the protocol has none.
    pub port: u16,
    pub protocol: Protocol,
    /// The host that was named, or else one that has the address, in lower case.
    pub host: Option<Arc<str>>,
    /// Whether it was let through.
    pub allowed: bool,
    pub reason: Reason,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub target: Target,
    /// The first and the last time, since the Unix epoch.
    pub first: Duration,
    pub last: Duration,
    /// How often, at least one.
    pub count: u64,
}

/// The attempts of all sandboxes.
#[derive(Debug, Default)]
pub struct Log(Mutex<HashMap<Place, HashMap<Target, Times>>>);

#[derive(Debug, Clone, Copy)]
struct Times {
    first: Duration,
    last: Duration,
    count: u64,
}

impl Target {
    /// A question to the name server.
    pub(crate) fn name(name: &str, verdict: &Verdict) -> Self {
        Self {
            address: None,
            port: 0,
            protocol: Protocol::Dns,
            host: Some(name.to_ascii_lowercase().into()),
            allowed: verdict.is_allowed(),
            reason: verdict.reason().clone(),
        }
    }
}

impl Log {
    /// Starts a log for a place; what others try is not remembered.
    pub fn open(&self, place: Place) {
        self.lock().entry(place).or_default();
    }

    /// Forgets a place.
    pub fn close(&self, place: Place) {
        self.lock().remove(&place);
    }

    /// Notes an attempt.
    pub fn record(&self, place: Place, target: Target) {
        self.record_at(place, target, base::clock::since_epoch());
    }

    fn record_at(&self, place: Place, target: Target, now: Duration) {
        let mut places = self.lock();
        let Some(attempts) = places.get_mut(&place) else { return };
        if let Some(times) = attempts.get_mut(&target) {
            times.last = now;
            times.count = times.count.saturating_add(1);
            return;
        }
        if attempts.len() >= ATTEMPTS_MAX {
            make_room(attempts);
        }
        attempts.insert(target, Times { first: now, last: now, count: 1 });
    }

    /// What a sandbox tried, the latest last.
    pub fn attempts(&self, place: Place) -> Vec<Attempt> {
        let mut attempts: Vec<Attempt> = self
            .lock()
            .get(&place)
            .into_iter()
            .flatten()
            .map(|(target, Times { first, last, count })| Attempt {
                target: target.clone(),
                first: *first,
                last: *last,
                count: *count,
            })
            .collect();
        attempts.sort_by(|a, b| (a.last, &a.target).cmp(&(b.last, &b.target)));
        attempts
    }

    // A panic elsewhere does not spoil the maps.
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, HashMap<Target, Times>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the quarter that is oldest, in one go, so that a flood does not pay for it each time.
fn make_room(attempts: &mut HashMap<Target, Times>) {
    let mut times: Vec<Duration> = attempts.values().map(|times| times.last).collect();
    let (_, limit, _) = times.select_nth_unstable(ATTEMPTS_MAX / 4);
    let limit = *limit;
    let mut left = ATTEMPTS_MAX / 4;
    attempts.retain(|_, times| {
        let old = left > 0 && times.last <= limit;
        left -= usize::from(old);
        !old
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Pool;

    fn target(name: &str) -> Target {
        Target::name(name, &Verdict::Denied(Reason::NameNotAllowed))
    }

    #[test]
    fn repetition_is_counted_and_a_flood_keeps_the_latest() {
        let log = Log::default();
        let place = Pool::default().user(0).place(2).unwrap();
        log.record(place, target("before"));
        assert_eq!(log.attempts(place), []);
        log.open(place);
        for second in 0..3 {
            log.record_at(place, target("A"), Duration::from_secs(second));
        }
        let attempts = log.attempts(place);
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].count, 3);
        assert_eq!(attempts[0].first, Duration::ZERO);
        assert_eq!(attempts[0].last, Duration::from_secs(2));
        assert_eq!(attempts[0].target.host.as_deref(), Some("a"));

        for index in 0..10_000_u64 {
            log.record_at(place, target(&index.to_string()), Duration::from_secs(3 + index));
        }
        let attempts = log.attempts(place);
        assert!((ATTEMPTS_MAX * 3 / 4..=ATTEMPTS_MAX).contains(&attempts.len()));
        assert_eq!(attempts.last().unwrap().target.host.as_deref(), Some("9999"));
        log.close(place);
        assert_eq!(log.attempts(place), []);
    }

    #[test]
    fn a_flood_within_one_moment_is_bounded_too() {
        let log = Log::default();
        let place = Pool::default().user(0).place(2).unwrap();
        log.open(place);
        for index in 0..2000 {
            log.record_at(place, target(&index.to_string()), Duration::ZERO);
        }
        let left = log.attempts(place).len();
        assert!((ATTEMPTS_MAX * 3 / 4..=ATTEMPTS_MAX).contains(&left));
    }
}
