//! What was written, read again by somebody who knows nothing of how it was written.

use std::collections::BTreeMap;

/// A file as a disk has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// With the kind.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) slot: u64,
    /// Number of a device, as the kernel has it.
    pub(crate) device: u32,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a file or a link.
    pub(crate) content: Vec<u8>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// Everything on a disk by its path; the root's is empty.
pub(crate) fn read(disk: &[u8]) -> BTreeMap<Vec<u8>, Found> {
    assert_eq!(u32_at(disk, 1024), 0xe0f5_e1e2);
    assert_eq!(disk.len(), place(u64::from(u32_at(disk, 1024 + 36))) * 4096);
    let root = u64::from(u16_at(disk, 1024 + 14));
    let mut all = BTreeMap::new();
    let mut left = vec![(Vec::new(), root, root)];
    while let Some((path, slot, parent)) = left.pop() {
        let found = inode(disk, slot);
        if found.mode & 0o170_000 == 0o040_000 {
            let names = directory(&found.content);
            assert!(names.is_sorted(), "{names:?}");
            for (name, child, kind) in names {
                match name.as_slice() {
                    b"." => assert_eq!((child, kind), (slot, 2)),
                    b".." => assert_eq!((child, kind), (parent, 2)),
                    _ => {
                        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                        let mode = inode(disk, child).mode >> 12;
                        assert_eq!(
                            [1, 2, 4, 6, 8, 10].map(|m| m == mode),
                            [5, 3, 2, 4, 1, 7].map(|k| k == kind)
                        );
                        left.push(([&path, slash, &name].concat(), child, slot));
                    }
                }
            }
        }
        assert!(all.insert(path, found).is_none());
    }
    for (path, found) in &mut all {
        if found.mode & 0o170_000 == 0o040_000 {
            found.content.clear();
        } else {
            assert!(found.slot != root, "{path:?}");
        }
    }
    all
}

fn inode(disk: &[u8], slot: u64) -> Found {
    let at = place(slot * 32);
    let raw = &disk[at..];
    let format = u16_at(raw, 0);
    assert_eq!(format & 1, 1);
    let mode = u16_at(raw, 4);
    let size = place(u64_at(raw, 8));
    let word = u32_at(raw, 16);
    let count = usize::from(u16_at(raw, 2));
    let xattrs = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
    let is_device = matches!(mode >> 12, 2 | 6);
    let block = place(u64::from(word)) * 4096;
    let content = match format >> 1 {
        _ if size == 0 => Vec::new(),
        0 => disk[block..block + size].to_vec(),
        2 => {
            let tail = at + 64 + xattrs;
            assert!(tail / 4096 == (tail + size % 4096 - 1) / 4096);
            assert!(at / 4096 == tail / 4096);
            let whole = size / 4096 * 4096;
            [&disk[block..][..whole], &disk[tail..][..size % 4096]].concat()
        }
        other => panic!("layout {other}"),
    };
    Found {
        mode,
        uid: u32_at(raw, 24),
        gid: u32_at(raw, 28),
        mtime: (u64_at(raw, 32).cast_signed(), u32_at(raw, 40)),
        links: u32_at(raw, 44),
        slot,
        device: if is_device { word } else { 0 },
        xattrs: attributes(&raw[64..64 + xattrs]),
        content,
    }
}

fn attributes(mut raw: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    raw = raw.get(12..).unwrap_or_default();
    while !raw.is_empty() {
        let (name, value) = (usize::from(raw[0]), usize::from(u16_at(raw, 2)));
        let prefix: &[u8] = match raw[1] {
            1 => b"user.",
            6 => b"security.",
            other => panic!("prefix {other}"),
        };
        let rest = &raw[4..];
        all.push(([prefix, &rest[..name]].concat(), rest[name..name + value].to_vec()));
        raw = &raw[(4 + name + value).next_multiple_of(4)..];
    }
    all
}

fn directory(content: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
    let mut all = Vec::new();
    for block in content.chunks(4096) {
        let count = usize::from(u16_at(block, 8)) / 12;
        for n in 0..count {
            let raw = &block[n * 12..];
            let start = usize::from(u16_at(raw, 8));
            let name = if n + 1 < count {
                &block[start..usize::from(u16_at(&block[(n + 1) * 12..], 8))]
            } else {
                let last = &block[start..];
                &last[..last.iter().position(|byte| *byte == 0).unwrap_or(last.len())]
            };
            all.push((name.to_vec(), u64_at(raw, 0), raw[10]));
        }
    }
    all
}
