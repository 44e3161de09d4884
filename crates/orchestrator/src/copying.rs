//! Memory of the daemon that copies of running guests take until they are written or loaded.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Kind, Result, admission};

/// Memory that copies leave to everybody else, MiB.
const LEFT_MIB: u64 = 512;

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copying {
    /// MiB.
    taken: Arc<Mutex<u64>>,
}

/// One copy's part of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Arc<Mutex<u64>>,
    mib: u64,
}

impl Copying {
    /// Takes room for so many bytes.
    ///
    /// # Errors
    /// [`Kind::HostOverloaded`] if the host would be left with too little.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Room> {
        self.reserve_of(bytes, admission::available_mib().unwrap_or(u64::MAX))
    }

    fn reserve_of(&self, bytes: u64, available_mib: u64) -> Result<Room> {
        let mib = bytes.div_ceil(1 << 20);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // What others have taken may not be filled yet, and would then still count as available.
        let needed = taken.saturating_add(mib).saturating_add(LEFT_MIB);
        if needed > available_mib {
            let message = format!(
                "the host has {available_mib} MB of memory left, and a copy of the running sandbox \
                 takes {mib} MB for a moment"
            );
            return Err(Error::new(Kind::HostOverloaded, message)
                .hint("stop it first: what is stopped is copied without memory"));
        }
        *taken += mib;
        Ok(Room { taken: Arc::clone(&self.taken), mib })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.mib;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_together_leave_room_for_the_others() {
        let copying = Copying::default();
        let first = copying.reserve_of(1000 << 20, 2000).unwrap();
        let refused = copying.reserve_of(1000 << 20, 2000).unwrap_err();
        assert_eq!(refused.kind, Kind::HostOverloaded);
        let _small = copying.reserve_of(400 << 20, 2000).unwrap();
        drop(first);
        copying.reserve_of(1000 << 20, 2000).unwrap();
    }
}
