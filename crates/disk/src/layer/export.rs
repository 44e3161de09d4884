//! A stored layer as a tar archive again: ustar headers, and PAX records for what they have no
//! room for.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt as _,
};

use fs_err as fs;

use super::{
    Layer, LayerError,
    header::BLOCK,
    index::{Content, Device, Entry, Kind, Meta},
    path::{OPAQUE, WHITEOUT},
};
use crate::BLOCK_SIZE;

/// Largest number that seven, and that eleven octal digits can say.
const SEVEN_DIGITS: u64 = (1 << 21) - 1;
const ELEVEN_DIGITS: u64 = (1 << 33) - 1;

/// Longest name and link target of a header, in bytes.
const NAME_MAX: usize = 100;

/// How much is copied at once, in bytes.
const CHUNK: usize = 256 << 10;

pub(super) fn write(layer: &Layer, to: &mut dyn Write) -> Result<(), LayerError> {
    let mut files =
        Files { small: fs::File::open(layer.small())?, data: fs::File::open(layer.data())? };
    for entry in layer.entries()? {
        to.write_all(&headers(&entry)).map_err(LayerError::Sink)?;
        if let Kind::File(content) = entry.kind {
            files.copy(content, to)?;
        }
    }
    to.write_all(&[0; 2 * BLOCK]).and_then(|()| to.flush()).map_err(LayerError::Sink)
}

struct Files {
    small: fs::File,
    data: fs::File,
}

impl Files {
    /// A file's content with its padding.
    fn copy(&mut self, content: Content, to: &mut dyn Write) -> Result<(), LayerError> {
        match content {
            Content::Small { offset, size } => {
                let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
                self.small.file().read_exact_at(&mut bytes, offset)?;
                to.write_all(&bytes).map_err(LayerError::Sink)?;
            }
            Content::Data { block, size } => {
                self.data.seek(SeekFrom::Start(u64::from(block) * BLOCK_SIZE))?;
                copy(&mut self.data, size, to)?;
            }
        }
        let size = content.size();
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let padding = usize::try_from(padding).unwrap_or_default();
        to.write_all(&[0; BLOCK][..padding]).map_err(LayerError::Sink)
    }
}

fn copy(from: &mut fs::File, size: u64, to: &mut dyn Write) -> Result<(), LayerError> {
    let mut buffer = vec![0; CHUNK];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let read = from.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        to.write_all(&buffer[..read]).map_err(LayerError::Sink)?;
        left -= read as u64;
    }
    Ok(())
}

/// What comes before an entry's content.
fn headers(entry: &Entry) -> Vec<u8> {
    let (kind, link, size, device) = match &entry.kind {
        Kind::Directory => (b'5', [].as_slice(), 0, None),
        Kind::File(content) => (b'0', [].as_slice(), content.size(), None),
        Kind::Whiteout | Kind::Opaque => (b'0', [].as_slice(), 0, None),
        Kind::Symlink(target) => (b'2', target.as_slice(), 0, None),
        Kind::HardLink(target) => (b'1', target.as_bytes(), 0, None),
        Kind::Character(device) => (b'3', [].as_slice(), 0, Some(*device)),
        Kind::Block(device) => (b'4', [].as_slice(), 0, Some(*device)),
        Kind::Fifo => (b'6', [].as_slice(), 0, None),
    };
    let name = name(entry);
    let records = records(&name, link, size, &entry.meta);
    let mut bytes = Vec::new();
    if !records.is_empty() {
        let meta = Meta { mode: 0o644, ..Meta::default() };
        bytes.extend(header(b'x', b"pax", b"", records.len() as u64, &meta, None));
        bytes.extend(&records);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.extend(header(kind, &name, link, size, &entry.meta, device));
    bytes
}

fn name(entry: &Entry) -> Vec<u8> {
    let path = entry.path.as_bytes();
    let (parent, last) = entry.path.split_last().unwrap_or_default();
    let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
    match entry.kind {
        Kind::Directory if path.is_empty() => b"./".to_vec(),
        Kind::Directory => [path, b"/"].concat(),
        Kind::Whiteout => [parent, slash, WHITEOUT, last].concat(),
        Kind::Opaque if path.is_empty() => OPAQUE.to_vec(),
        Kind::Opaque => [path, b"/", OPAQUE].concat(),
        _ => path.to_vec(),
    }
}

/// The records that an entry needs.
fn records(name: &[u8], link: &[u8], size: u64, meta: &Meta) -> Vec<u8> {
    let mut records = Vec::new();
    if name.len() > NAME_MAX {
        record(&mut records, b"path", name);
    }
    if link.len() > NAME_MAX {
        record(&mut records, b"linkpath", link);
    }
    if size > ELEVEN_DIGITS {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [("uid", meta.uid), ("gid", meta.gid)] {
        if u64::from(id) > SEVEN_DIGITS {
            record(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    if plain_time(meta).is_none() {
        record(&mut records, b"mtime", time(meta).as_bytes());
    }
    for (name, value) in &meta.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    to.extend(format!("{length} ").bytes());
    to.extend([key, b"=", value, b"\n"].concat());
}

/// The time, if a header has room for it.
fn plain_time(meta: &Meta) -> Option<u64> {
    let seconds = u64::try_from(meta.mtime).ok()?;
    (meta.nanoseconds == 0 && seconds <= ELEVEN_DIGITS).then_some(seconds)
}

fn time(meta: &Meta) -> String {
    match (meta.mtime, meta.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., part) => format!("{seconds}.{part:09}"),
        (seconds, part) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - part),
    }
}

fn header(
    kind: u8,
    name: &[u8],
    link: &[u8],
    size: u64,
    meta: &Meta,
    device: Option<Device>,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, field: &[u8]| block[at..at + field.len()].copy_from_slice(field);
    let seven = |number: u64| if number > SEVEN_DIGITS { 0 } else { number };
    put(0, &name[..name.len().min(NAME_MAX)]);
    put(100, format!("{:07o}", meta.mode).as_bytes());
    put(108, format!("{:07o}", seven(meta.uid.into())).as_bytes());
    put(116, format!("{:07o}", seven(meta.gid.into())).as_bytes());
    put(124, format!("{:011o}", if size > ELEVEN_DIGITS { 0 } else { size }).as_bytes());
    put(136, format!("{:011o}", plain_time(meta).unwrap_or(0)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(NAME_MAX)]);
    put(257, b"ustar\x0000");
    if let Some(device) = device {
        put(329, format!("{:07o}", device.major).as_bytes());
        put(337, format!("{:07o}", device.minor).as_bytes());
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}
