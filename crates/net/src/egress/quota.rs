//! How much may go on at once: for one sandbox, for all of one user, and for all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::address::Place;

/// One user has at most this part of what all have.
const USERS_SHARE: usize = 4;

/// Counts what is going on and says no when it is too much.
#[derive(Debug)]
pub(crate) struct Quota {
    each: usize,
    total: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    next: u64,
    users: HashMap<u16, usize>,
    /// What each has, the oldest first.
    places: HashMap<Place, BTreeMap<u64, CancellationToken>>,
}

/// One thing that goes on; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    quota: Arc<Quota>,
    place: Place,
    number: u64,
    end: CancellationToken,
}

impl Turn {
    /// Waits until it has to end because it would be too much.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Quota {
    pub(crate) fn new(each: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { each, total, taken: Mutex::default() })
    }

    /// A turn, if there is room for one.
    pub(crate) fn take(self: &Arc<Self>, place: Place) -> Option<Turn> {
        let mut taken = self.lock();
        let (user, share) = (place.network().index(), self.total.div_ceil(USERS_SHARE));
        let own = taken.places.get(&place).map_or(0, BTreeMap::len);
        let of_user = taken.users.get(&user).copied().unwrap_or_default();
        if taken.all >= self.total || of_user >= share || own >= self.each {
            return None;
        }
        taken.all += 1;
        taken.next += 1;
        let (number, end) = (taken.next, CancellationToken::new());
        taken.users.insert(user, of_user + 1);
        taken.places.entry(place).or_default().insert(number, end.clone());
        Some(Turn { quota: Arc::clone(self), place, number, end })
    }

    /// Has all but the latest `most` of a sandbox end.
    pub(crate) fn trim(&self, place: Place, most: usize) {
        let taken = self.lock();
        if let Some(turns) = taken.places.get(&place) {
            turns.values().rev().skip(most).for_each(CancellationToken::cancel);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
        taken.all = taken.all.saturating_sub(1);
        let user = self.place.network().index();
        if let Some(of_user) = taken.users.get_mut(&user) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.users.remove(&user);
            }
        }
        if let Some(turns) = taken.places.get_mut(&self.place) {
            turns.remove(&self.number);
            if turns.is_empty() {
                taken.places.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Pool;

    fn place(user: u16, host: u16) -> Place {
        Pool::default().user(user).place(host).unwrap()
    }

    #[test]
    fn one_sandbox_cannot_take_what_others_need() {
        let quota = Quota::new(2, 12);
        let first = quota.take(place(0, 2)).unwrap();
        let _second = quota.take(place(0, 2)).unwrap();
        assert!(quota.take(place(0, 2)).is_none());
        let _third = quota.take(place(0, 3)).unwrap();
        assert!(quota.take(place(0, 4)).is_none());
        drop(first);
        assert!(quota.take(place(0, 4)).is_some());
        assert!(quota.take(place(0, 2)).is_some());
    }

    #[test]
    fn one_user_cannot_take_what_others_need() {
        let quota = Quota::new(100, 8);
        let mut turns: Vec<Turn> = (2..10).filter_map(|host| quota.take(place(0, host))).collect();
        assert_eq!(turns.len(), 2);
        for user in 1..4 {
            turns.extend((0..3).filter_map(|_| quota.take(place(user, 2))));
        }
        assert_eq!(turns.len(), 8);
        assert!(quota.take(place(5, 2)).is_none());
        turns.clear();
        assert!(quota.take(place(5, 2)).is_some());
        assert!(quota.lock().users.is_empty() && quota.lock().places.is_empty());
    }

    #[test]
    fn the_oldest_end_when_fewer_may_go_on() {
        let quota = Quota::new(8, 100);
        let turns: Vec<Turn> = (0..4).filter_map(|_| quota.take(place(0, 2))).collect();
        let other = quota.take(place(0, 3)).unwrap();
        quota.trim(place(0, 2), 1);
        let ended: Vec<bool> = turns.iter().map(|turn| turn.end.is_cancelled()).collect();
        assert_eq!(ended, [true, true, true, false]);
        assert!(!other.end.is_cancelled());
    }
}
