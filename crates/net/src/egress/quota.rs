//! How much may go on at once, for one sandbox and for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::address::Place;

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
    places: HashMap<Place, usize>,
}

/// One thing that goes on; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    quota: Arc<Quota>,
    place: Place,
}

impl Quota {
    pub(crate) fn new(each: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { each, total, taken: Mutex::default() })
    }

    /// A turn, if there is room for one.
    pub(crate) fn take(self: &Arc<Self>, place: Place) -> Option<Turn> {
        let mut taken = self.lock();
        let own = taken.places.get(&place).copied().unwrap_or_default();
        if taken.all >= self.total || own >= self.each {
            return None;
        }
        taken.all += 1;
        taken.places.insert(place, own + 1);
        Some(Turn { quota: Arc::clone(self), place })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.places.get_mut(&self.place) {
            *own -= 1;
            if *own == 0 {
                taken.places.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Pool;

    #[test]
    fn one_sandbox_cannot_take_what_others_need() {
        let place = |host| Pool::default().user(0).place(host).unwrap();
        let quota = Quota::new(2, 3);
        let first = quota.take(place(2)).unwrap();
        let _second = quota.take(place(2)).unwrap();
        assert!(quota.take(place(2)).is_none());
        let _third = quota.take(place(3)).unwrap();
        assert!(quota.take(place(4)).is_none());
        drop(first);
        assert!(quota.take(place(4)).is_some());
        assert!(quota.take(place(2)).is_some());
    }
}
