//! What a layer consists of: its entries in the order of the archive, and the file that they are
//! stored in.
//!
//! ```text
//! index   entry after entry: kind, path, owner, mode, time, attributes, and what its kind needs
//! small   contents of small files, one after the other
//! data    contents of all others, each at a boundary of 4096 bytes
//! ```
//! Numbers are little-endian; texts have their length before them.

use super::path::EntryPath;

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: EntryPath,
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
}

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// Permissions and the bits for set-user-id, set-group-id and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the Unix epoch.
    pub(crate) mtime: i64,
    pub(crate) nanoseconds: u32,
    /// Names with their prefix, and values, sorted by name.
    pub(crate) xattrs: Xattrs,
}

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    /// Another name of what the path means.
    HardLink(EntryPath),
    Character(Device),
    Block(Device),
    Fifo,
    /// What lower layers have there is gone.
    Whiteout,
    /// What lower layers have in the directory is gone.
    Opaque,
}

/// The numbers of a device, which means nothing to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// Largest numbers that a Linux inode has room for.
pub(crate) const MAJOR_MAX: u32 = (1 << 12) - 1;
pub(crate) const MINOR_MAX: u32 = (1 << 20) - 1;

/// Where a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// In `small`, from that byte on.
    Small { offset: u64, size: u32 },
    /// In `data`, from that block of 4096 bytes on.
    Data { block: u32, size: u64 },
}

impl Content {
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Small { size, .. } => u64::from(size),
            Self::Data { size, .. } => size,
        }
    }
}

impl Entry {
    /// Appends the stored form.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        to.push(self.kind.tag());
        put_bytes(to, self.path.as_bytes());
        let meta = &self.meta;
        to.extend(meta.mode.to_le_bytes());
        to.extend(meta.uid.to_le_bytes());
        to.extend(meta.gid.to_le_bytes());
        to.extend(meta.mtime.to_le_bytes());
        to.extend(meta.nanoseconds.to_le_bytes());
        put_length(to, meta.xattrs.len());
        for (name, value) in &meta.xattrs {
            put_bytes(to, name);
            put_bytes(to, value);
        }
        match &self.kind {
            Kind::Directory | Kind::Fifo | Kind::Whiteout | Kind::Opaque => {}
            Kind::File(Content::Small { offset, size }) => {
                to.extend(offset.to_le_bytes());
                to.extend(size.to_le_bytes());
            }
            Kind::File(Content::Data { block, size }) => {
                to.extend(block.to_le_bytes());
                to.extend(size.to_le_bytes());
            }
            Kind::Symlink(target) => put_bytes(to, target),
            Kind::HardLink(target) => put_bytes(to, target.as_bytes()),
            Kind::Character(device) | Kind::Block(device) => {
                to.extend(device.major.to_le_bytes());
                to.extend(device.minor.to_le_bytes());
            }
        }
    }

    /// Reads the stored form; `None` if it is not one.
    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let [tag] = from.array()?;
        let path = EntryPath::stored(from.bytes()?)?;
        let mut meta = Meta {
            mode: u16::from_le_bytes(from.array()?),
            uid: from.u32()?,
            gid: from.u32()?,
            mtime: i64::from_le_bytes(from.array()?),
            nanoseconds: from.u32()?,
            xattrs: Vec::new(),
        };
        for _ in 0..from.u32()? {
            meta.xattrs.push((from.bytes()?.to_owned(), from.bytes()?.to_owned()));
        }
        let kind = match tag {
            0 => Kind::Directory,
            1 => Kind::File(Content::Small { offset: from.u64()?, size: from.u32()? }),
            2 => Kind::File(Content::Data { block: from.u32()?, size: from.u64()? }),
            3 => Kind::Symlink(from.bytes()?.to_owned()),
            4 => Kind::HardLink(EntryPath::stored(from.bytes()?)?),
            5 => Kind::Character(Device { major: from.u32()?, minor: from.u32()? }),
            6 => Kind::Block(Device { major: from.u32()?, minor: from.u32()? }),
            7 => Kind::Fifo,
            8 => Kind::Whiteout,
            9 => Kind::Opaque,
            _ => return None,
        };
        Some(Self { path, meta, kind })
    }
}

impl Kind {
    fn tag(&self) -> u8 {
        match self {
            Self::Directory => 0,
            Self::File(Content::Small { .. }) => 1,
            Self::File(Content::Data { .. }) => 2,
            Self::Symlink(_) => 3,
            Self::HardLink(_) => 4,
            Self::Character(_) => 5,
            Self::Block(_) => 6,
            Self::Fifo => 7,
            Self::Whiteout => 8,
            Self::Opaque => 9,
        }
    }
}

/// Reads all entries; `None` if that is not what the bytes are.
pub(super) fn decode(index: &[u8]) -> Option<Vec<Entry>> {
    let mut reader = Reader(index);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(Entry::decode(&mut reader)?);
    }
    Some(entries)
}

fn put_length(to: &mut Vec<u8>, length: usize) {
    // Everything with a length was bounded far below that when it was read.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    to.extend(length.to_le_bytes());
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_length(to, bytes.len());
    to.extend(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}
