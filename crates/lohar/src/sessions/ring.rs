//! The newest output of a session.

use std::collections::VecDeque;

/// Bytes of output that a session keeps.
pub(crate) const RING_MAX: usize = 256 * 1024;

/// Keeps the last [`RING_MAX`] bytes; a cursor counts all that ever came.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    end: u64,
}

impl Ring {
    /// Cursor of the oldest byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Cursor after the newest byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that can come before the one at `cursor` is lost.
    pub(super) fn room_after(&self, cursor: u64) -> usize {
        let held = usize::try_from(self.end.saturating_sub(cursor)).unwrap_or(RING_MAX);
        RING_MAX.saturating_sub(held)
    }

    /// Adds output, forgetting what becomes too old.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(RING_MAX)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(RING_MAX);
        self.bytes.drain(..excess);
        if self.bytes.len() + bytes.len() > self.bytes.capacity() {
            // Doubling, but never beyond what can be needed.
            let wanted = (self.bytes.len() + bytes.len()).next_power_of_two().min(RING_MAX);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend(bytes);
    }

    /// At most `most` bytes from `cursor`, or from the oldest, on, and the cursor after them.
    pub(super) fn read(&self, cursor: u64, most: usize) -> (Vec<u8>, u64) {
        let from = cursor.clamp(self.start(), self.end);
        let skip = usize::try_from(from - self.start()).unwrap_or(0);
        let piece: Vec<u8> = self.bytes.range(skip..).take(most).copied().collect();
        let next = from + piece.len() as u64;
        (piece, next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_ring_keeps_the_last_bytes_under_their_cursors(
            pieces in proptest::collection::vec((any::<u8>(), 0_usize..200_000), 0..8),
            from in any::<prop::sample::Index>(),
            most in 0_usize..100_000,
        ) {
            let (mut ring, mut all) = (Ring::default(), Vec::new());
            for (byte, count) in pieces {
                let piece: Vec<u8> = (byte..=u8::MAX).cycle().take(count).collect();
                ring.push(&piece);
                all.extend(piece);
                prop_assert_eq!(ring.end(), all.len() as u64);
                prop_assert_eq!(ring.start(), all.len().saturating_sub(RING_MAX) as u64);
                let oldest = all.len().saturating_sub(RING_MAX);
                let at = oldest + from.index(all.len() - oldest + 1);
                let cursor = at as u64;
                let (got, next) = ring.read(cursor, most);
                prop_assert_eq!(&got[..], &all[at..(at + most).min(all.len())]);
                prop_assert_eq!(next, cursor + got.len() as u64);
                prop_assert_eq!(ring.room_after(cursor), RING_MAX - (all.len() - at));
                prop_assert!(ring.bytes.capacity() <= RING_MAX);
            }
        }
    }

    #[test]
    fn a_cursor_that_is_not_kept_reads_from_the_oldest() {
        let mut ring = Ring::default();
        ring.push(&[1; RING_MAX]);
        ring.push(&[2; 3]);
        assert_eq!(ring.read(0, 2), (vec![1, 1], 5));
        assert_eq!(ring.read(u64::MAX, 2), (vec![], RING_MAX as u64 + 3));
    }
}
