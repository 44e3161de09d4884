//! The bytes of erofs structures, as `fs/erofs/erofs_fs.h` of Linux 6.1 has them. All numbers are
//! little-endian.

use crate::layer::index::{Device, Meta};

/// Where the superblock is, in bytes.
pub(super) const SUPERBLOCK_AT: u64 = 1024;
pub(super) const SUPERBLOCK_SIZE: usize = 128;

/// Inodes begin at multiples of this and are known by how many of them come before.
pub(super) const SLOT: u64 = 32;
/// Of an extended inode without attributes.
pub(super) const INODE_SIZE: u64 = 64;
/// Of an entry of a directory without its name.
pub(super) const DIRENT_SIZE: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_MTIME: u32 = 2;
/// Blocks have so many bits: 4096 bytes.
const BLOCK_BITS: u8 = 12;
/// One fixed UUID: images are told apart by their hash.
const UUID: [u8; 16] = *b"bhatti\x40\0\x80\0\0\0\0\0\0\x02";

/// Before the attributes of an inode, in bytes.
const XATTR_HEADER: usize = 12;

/// The prefixes of attribute names that have a number.
const USER: (u8, &[u8]) = (1, b"user.");
const SECURITY: (u8, &[u8]) = (6, b"security.");

pub(super) const S_IFIFO: u16 = 0o010_000;
pub(super) const S_IFCHR: u16 = 0o020_000;
pub(super) const S_IFDIR: u16 = 0o040_000;
pub(super) const S_IFBLK: u16 = 0o060_000;
pub(super) const S_IFREG: u16 = 0o100_000;
pub(super) const S_IFLNK: u16 = 0o120_000;

/// Where an inode's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In blocks, from that one on.
    Blocks(u32),
    /// Whole blocks from that one on, and the rest behind the inode.
    BlocksAndTail(u32),
    /// It has none but the number of a device.
    Device(Device),
    /// It has none.
    Nowhere,
}

/// An inode's own bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInode<'a> {
    pub(super) kind: u16,
    pub(super) meta: &'a Meta,
    pub(super) size: u64,
    pub(super) place: Place,
    pub(super) number: u32,
    pub(super) links: u32,
}

impl RawInode<'_> {
    /// The inode and its attributes.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        const EXTENDED: u16 = 1;
        const PLAIN: u16 = 0 << 1;
        const INLINE: u16 = 2 << 1;
        let (layout, word) = match self.place {
            Place::Blocks(block) => (PLAIN, block),
            Place::BlocksAndTail(block) => (INLINE, block),
            Place::Device(device) => (PLAIN, encoded(device)),
            Place::Nowhere => (PLAIN, 0),
        };
        let meta = self.meta;
        let xattrs = xattrs_size(meta);
        // The header counts as one, everything else by four bytes.
        let count = if xattrs == 0 { 0 } else { (xattrs - XATTR_HEADER) / 4 + 1 };
        to.extend((EXTENDED | layout).to_le_bytes());
        to.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        to.extend((self.kind | meta.mode).to_le_bytes());
        to.extend([0; 2]);
        to.extend(self.size.to_le_bytes());
        to.extend(word.to_le_bytes());
        to.extend(self.number.to_le_bytes());
        to.extend(meta.uid.to_le_bytes());
        to.extend(meta.gid.to_le_bytes());
        to.extend(meta.mtime.to_le_bytes());
        to.extend(meta.nanoseconds.to_le_bytes());
        to.extend(self.links.to_le_bytes());
        to.extend([0; 16]);
        if xattrs > 0 {
            encode_xattrs(meta, to);
        }
    }
}

/// The number of a device as the kernel keeps it.
fn encoded(device: Device) -> u32 {
    (device.minor & 0xff) | (device.major << 8) | ((device.minor & !0xff) << 12)
}

/// The attributes of an inode with their header, in bytes; 0 without any.
pub(super) fn xattrs_size(meta: &Meta) -> usize {
    let sizes = meta.xattrs.iter().filter_map(|(name, value)| {
        let (_, name) = split(name)?;
        Some((4 + name.len() + value.len()).next_multiple_of(4))
    });
    match sizes.sum() {
        0 => 0,
        size => XATTR_HEADER + size,
    }
}

fn encode_xattrs(meta: &Meta, to: &mut Vec<u8>) {
    to.extend([0; XATTR_HEADER]);
    for (name, value) in &meta.xattrs {
        let Some((prefix, name)) = split(name) else { continue };
        let start = to.len();
        to.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        to.push(prefix);
        to.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        to.extend(name);
        to.extend(value);
        to.resize(start + (to.len() - start).next_multiple_of(4), 0);
    }
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    [USER, SECURITY]
        .into_iter()
        .find_map(|(number, prefix)| Some((number, name.strip_prefix(prefix)?)))
}

/// What the superblock says. Inodes are counted from the disk's start, no attributes are shared,
/// and the time of building, which would make equal images differ, is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Superblock {
    /// Slot of the root directory's inode.
    pub(super) root: u16,
    pub(super) inodes: u64,
    /// Of the whole disk.
    pub(super) blocks: u32,
}

impl Superblock {
    /// Its bytes. There is no checksum: what describes the image has a better one of the file.
    pub(super) fn encode(&self) -> [u8; SUPERBLOCK_SIZE] {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT_MTIME.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &UUID);
        bytes
    }
}
