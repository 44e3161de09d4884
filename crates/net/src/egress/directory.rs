//! Who is where, by what name, and what each may reach.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::forbidden::Forbidden;
use crate::{
    address::{Place, Pool, UserNetwork},
    policy::Reach,
};

/// What is known of all sandboxes. Asking is cheap: a lock for as long as a lookup takes.
#[derive(Debug)]
pub struct Directory {
    pool: Pool,
    forbidden: Forbidden,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<Place, Slot>,
    /// By the index of the network and the name in lower case.
    names: HashMap<(u16, String), Place>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    policy: watch::Sender<Arc<Reach>>,
}

impl Directory {
    /// One that knows nobody yet. `forbidden` is closed besides what always is.
    pub fn new(pool: Pool, forbidden: &[Ipv4Net]) -> Self {
        Self { pool, forbidden: Forbidden::new(pool, forbidden), known: RwLock::default() }
    }

    /// The range that the places are in.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// What nobody reaches by default.
    pub fn forbidden(&self) -> &Forbidden {
        &self.forbidden
    }

    /// Says who is at a place, or what changed about it. Of two with one name the later is found.
    pub fn set(&self, place: Place, name: &str, reach: impl Into<Reach>) {
        let name = name.to_ascii_lowercase();
        let reach = Arc::new(reach.into());
        let mut known = self.write();
        let index = place.network().index();
        if known.places.get(&place).is_some_and(|slot| slot.name != name) {
            known.forget_name(place);
        }
        known.names.insert((index, name.clone()), place);
        match known.places.get_mut(&place) {
            Some(slot) => {
                slot.name = name;
                slot.policy.send_if_modified(|policy| {
                    let changed = **policy != *reach;
                    if changed {
                        *policy = reach;
                    }
                    changed
                });
            }
            None => {
                let policy = watch::Sender::new(reach);
                known.places.insert(place, Slot { name, policy });
            }
        }
    }

    /// Nobody is at this place any more. Who watches its policy is told.
    pub fn forget(&self, place: Place) {
        let mut known = self.write();
        known.forget_name(place);
        known.places.remove(&place);
    }

    /// What the sandbox at a place may reach, now and later; none if nobody is there. The channel
    /// closes when the place is forgotten.
    pub fn policy(&self, place: Place) -> Option<watch::Receiver<Arc<Reach>>> {
        self.read().places.get(&place).map(|slot| slot.policy.subscribe())
    }

    /// The address of the sandbox with this name, in any case of letters, in this network.
    pub fn address_of(&self, network: UserNetwork, name: &str) -> Option<Ipv4Addr> {
        let key = (network.index(), name.to_ascii_lowercase());
        self.read().names.get(&key).map(|place| place.address())
    }

    /// The name of the sandbox at this place.
    pub fn name_of(&self, place: Place) -> Option<String> {
        self.read().places.get(&place).map(|slot| slot.name.clone())
    }

    // A panic while the lock was held leaves the maps whole: each change is one insert or remove.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Removes the name of a place, unless another has it by now.
    fn forget_name(&mut self, place: Place) {
        let Some(slot) = self.places.get(&place) else { return };
        let key = (place.network().index(), slot.name.clone());
        if self.names.get(&key) == Some(&place) {
            self.names.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Egress, Mode};

    #[test]
    fn a_name_belongs_to_whoever_has_it_last_and_only_in_its_network() {
        let directory = Directory::new(Pool::default(), &[]);
        let (one, two) = (Pool::default().user(0), Pool::default().user(1));
        let (a, b) = (one.place(2).unwrap(), one.place(3).unwrap());
        directory.set(a, "Web", Egress::default());
        assert_eq!(directory.address_of(one, "wEB"), Some(a.address()));
        assert_eq!(directory.address_of(two, "web"), None);

        directory.set(b, "web", Egress::default());
        directory.forget(a);
        assert_eq!(directory.address_of(one, "web"), Some(b.address()));
        directory.set(b, "db", Egress::default());
        assert_eq!(directory.address_of(one, "web"), None);
        assert_eq!(directory.name_of(b).as_deref(), Some("db"));
    }

    #[test]
    fn who_watches_a_policy_hears_of_changes_and_of_the_end() {
        let directory = Directory::new(Pool::default(), &[]);
        let place = Pool::default().user(0).place(2).unwrap();
        directory.set(place, "a", Egress::default());
        let mut policy = directory.policy(place).unwrap();
        directory.set(place, "renamed", Egress::default());
        assert!(!policy.has_changed().unwrap());
        directory.set(place, "a", Egress { mode: Mode::Deny, ..Egress::default() });
        assert_eq!(policy.borrow_and_update().holds.mode, Mode::Deny);
        directory.forget(place);
        assert!(policy.has_changed().is_err());
        assert!(directory.policy(place).is_none());
    }
}
