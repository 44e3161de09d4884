//! Which names led to which addresses: what a sandbox was told by our DNS, and for how long it
//! counts.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::address::Place;

/// Most pairs of address and name for one sandbox.
const PAIRS_MAX: usize = 2048;
/// The least and the most that a record's own time counts for.
const TTL_MIN: Duration = Duration::from_secs(60);
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is added to it: programs keep addresses longer than they should.
const GRACE: Duration = Duration::from_secs(3600);

/// What every sandbox's names led to.
#[derive(Debug, Default)]
pub struct Bindings(Mutex<HashMap<Place, Table>>);

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<Ipv4Addr, Vec<Bound>>,
    pairs: usize,
}

#[derive(Debug)]
struct Bound {
    name: Arc<str>,
    until: Instant,
    /// When it was last told or asked for; who was not for longest goes first.
    used: Instant,
}

impl Bindings {
    /// Starts to remember for a place; nothing is remembered for others.
    pub fn open(&self, place: Place) {
        self.lock().entry(place).or_default();
    }

    /// Forgets a place.
    pub fn close(&self, place: Place) {
        self.lock().remove(&place);
    }

    /// Remembers that a name led to these addresses for this time.
    pub fn bind(&self, place: Place, name: &str, answers: &[(Ipv4Addr, Duration)]) {
        let name: Arc<str> = name.to_ascii_lowercase().into();
        let now = Instant::now();
        let mut tables = self.lock();
        let Some(table) = tables.get_mut(&place) else { return };
        for (address, ttl) in answers {
            if table.pairs >= PAIRS_MAX {
                table.make_room(now);
            }
            let until = now + (*ttl).clamp(TTL_MIN, TTL_MAX) + GRACE;
            let bounds = table.addresses.entry(*address).or_default();
            match bounds.iter_mut().find(|bound| bound.name == name) {
                Some(bound) => {
                    bound.until = until.max(bound.until);
                    bound.used = now;
                }
                None => {
                    bounds.push(Bound { name: Arc::clone(&name), until, used: now });
                    table.pairs += 1;
                }
            }
        }
    }

    /// The names that led a sandbox to an address, the one last used first.
    pub fn names(&self, place: Place, address: Ipv4Addr) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut tables = self.lock();
        let Some(bounds) = tables.get_mut(&place).and_then(|t| t.addresses.get_mut(&address))
        else {
            return Vec::new();
        };
        let mut names: Vec<&mut Bound> = bounds.iter_mut().filter(|b| b.until > now).collect();
        names.sort_by_key(|bound| std::cmp::Reverse(bound.used));
        names
            .into_iter()
            .map(|bound| {
                bound.used = now;
                Arc::clone(&bound.name)
            })
            .collect()
    }

    // Every change leaves the table usable, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Table>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Drops what has run out, and if that is little, the quarter that was not used for longest:
    /// in one go, so that a flood does not pay for it with every name.
    fn make_room(&mut self, now: Instant) {
        let mut uses: Vec<Instant> = self
            .addresses
            .values()
            .flatten()
            .filter(|bound| bound.until > now)
            .map(|bound| bound.used)
            .collect();
        let surplus = uses.len().saturating_sub(PAIRS_MAX * 3 / 4);
        let oldest = (surplus > 0).then(|| *uses.select_nth_unstable(surplus - 1).1);
        // Many can have been used at the same moment; no more than the surplus go.
        let mut left = surplus;
        self.addresses.retain(|_, bounds| {
            bounds.retain(|bound| {
                let old = left > 0 && oldest.is_some_and(|oldest| bound.used <= oldest);
                if bound.until > now && old {
                    left -= 1;
                }
                bound.until > now && !old
            });
            !bounds.is_empty()
        });
        self.pairs = self.addresses.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Pool;

    const ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

    fn place(host: u16) -> Place {
        Pool::default().user(0).place(host).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_binding_lasts_longer_than_its_record_but_not_for_ever() {
        let bindings = Bindings::default();
        bindings.open(place(2));
        bindings.bind(place(2), "A.example", &[(ONE, Duration::from_secs(1))]);
        tokio::time::advance(TTL_MIN + GRACE - Duration::from_secs(1)).await;
        assert_eq!(bindings.names(place(2), ONE), ["a.example".into()]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(bindings.names(place(2), ONE), []);
    }

    #[tokio::test(start_paused = true)]
    async fn bindings_are_of_one_sandbox_and_go_with_it() {
        let bindings = Bindings::default();
        bindings.bind(place(2), "a", &[(ONE, TTL_MIN)]);
        assert_eq!(bindings.names(place(2), ONE), []);
        bindings.open(place(2));
        bindings.open(place(3));
        bindings.bind(place(2), "a", &[(ONE, TTL_MIN)]);
        assert_eq!(bindings.names(place(3), ONE), []);
        bindings.close(place(2));
        bindings.open(place(2));
        assert_eq!(bindings.names(place(2), ONE), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_drops_what_was_not_used_for_longest() {
        let bindings = Bindings::default();
        bindings.open(place(2));
        bindings.bind(place(2), "kept", &[(ONE, TTL_MIN)]);
        bindings.bind(place(2), "lost", &[(Ipv4Addr::new(203, 0, 113, 2), TTL_MIN)]);
        for index in 0..PAIRS_MAX * 3 {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(bindings.names(place(2), ONE).contains(&"kept".into()));
            let address = Ipv4Addr::from(0x0800_0000 + u32::try_from(index).unwrap());
            bindings.bind(place(2), "flood", &[(address, TTL_MIN)]);
            let table = &bindings.lock()[&place(2)];
            assert!(table.pairs <= PAIRS_MAX);
            assert_eq!(table.pairs, table.addresses.values().map(Vec::len).sum::<usize>());
        }
        assert_eq!(bindings.names(place(2), Ipv4Addr::new(203, 0, 113, 2)), []);
    }
}
