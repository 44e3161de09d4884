//! Which user ids monitors have that were not started for a sandbox.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::{Error, Kind, Result};

/// The first of their slots; those of sandboxes and templates are lower.
pub(crate) const FIRST_SLOT: u32 = 8_000;
/// How many there can be.
const SLOTS: u32 = 2_000;

/// The slots that are taken, by the name of the VM: that of a spare monitor, later that of the sandbox
/// that claimed it.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<HashMap<String, u32>>);

impl Slots {
    /// A slot that no other VM has.
    ///
    /// # Errors
    /// There are none left.
    pub(crate) fn give(&self, name: &str) -> Result<u32> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (FIRST_SLOT..FIRST_SLOT + SLOTS).find(|slot| !taken.values().any(|t| t == slot));
        let free = free.ok_or_else(|| Error::new(Kind::Internal, "there are no user ids left"))?;
        taken.insert(name.to_owned(), free);
        Ok(free)
    }

    /// The VM has another name from now on.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = taken.remove(from) {
            taken.insert(to.to_owned(), slot);
        }
    }

    /// A VM of an earlier daemon has this slot.
    pub(crate) fn keep(&self, name: &str, slot: u32) {
        if (FIRST_SLOT..FIRST_SLOT + SLOTS).contains(&slot) {
            let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            taken.insert(name.to_owned(), slot);
        }
    }

    /// The VM is gone.
    pub(crate) fn free(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_and_what_is_free_is_given_again() {
        let slots = Slots::default();
        slots.keep("adopted", FIRST_SLOT);
        slots.keep("of a sandbox", 7);
        assert_eq!(slots.give("spare-1").unwrap(), FIRST_SLOT + 1);
        slots.rename("spare-1", "box");
        assert_eq!(slots.give("spare-1").unwrap(), FIRST_SLOT + 2);
        slots.free("box");
        slots.free("adopted");
        assert_eq!(slots.give("a").unwrap(), FIRST_SLOT);
        assert_eq!(slots.give("b").unwrap(), FIRST_SLOT + 1);
        for n in 3..SLOTS {
            slots.give(&n.to_string()).unwrap();
        }
        assert_eq!(slots.give("one too many").unwrap_err().kind, Kind::Internal);
    }
}
