//! The content of a directory: blocks, each with entries and after them their names, sorted by
//! name over all blocks.

use super::format::DIRENT_SIZE;
use crate::{BLOCK, BLOCK_SIZE};

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named<'a> {
    pub(super) name: &'a [u8],
    /// Slot of its inode.
    pub(super) slot: u64,
    pub(super) kind: u8,
}

/// How many of the names that come first go into one block, and how much they take.
fn fit<'a>(names: impl Iterator<Item = &'a [u8]>) -> (usize, usize) {
    let (mut count, mut used) = (0, 0);
    for name in names {
        let more = DIRENT_SIZE + name.len();
        if used + more > BLOCK {
            break;
        }
        count += 1;
        used += more;
    }
    (count, used)
}

/// The size of a directory with these names, in bytes. They are sorted, `.` and `..` among them.
pub(super) fn size(names: &[&[u8]]) -> u64 {
    let (mut rest, mut size) = (names, 0);
    while !rest.is_empty() {
        let (count, used) = fit(rest.iter().copied());
        rest = &rest[count..];
        size += if rest.is_empty() { used as u64 } else { BLOCK_SIZE };
    }
    size
}

/// The directory's bytes.
pub(super) fn encode(entries: &[Named<'_>]) -> Vec<u8> {
    let (mut rest, mut bytes) = (entries, Vec::new());
    while !rest.is_empty() {
        let (count, _) = fit(rest.iter().map(|entry| entry.name));
        let (block, more) = rest.split_at(count);
        let mut name_at = count * DIRENT_SIZE;
        for entry in block {
            bytes.extend(entry.slot.to_le_bytes());
            bytes.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend([entry.kind, 0]);
            name_at += entry.name.len();
        }
        for entry in block {
            bytes.extend(entry.name);
        }
        if !more.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        rest = more;
    }
    bytes
}
