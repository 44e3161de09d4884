//! Reading a tar archive that comes in pieces: ustar with the extensions of GNU (long names) and
//! POSIX (pax records).
//!
//! Whatever an archive claims, no more than [`RECORD_MAX`] of it is held in memory.

use proto::message::ErrorCode;
use tar::{EntryType, Header};
use tokio::sync::mpsc;

use super::Failure;
use crate::agent::refuse;

/// Unit of an archive.
pub(super) const BLOCK: usize = 512;

/// Bytes of a long name or of an entry's extended header.
const RECORD_MAX: u64 = 1024 * 1024;

/// What comes from the host.
pub(super) enum Piece {
    /// The next bytes.
    Data(Vec<u8>),
    /// There are no more.
    End,
}

/// What an archive says of one entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    /// Ids of user and group.
    pub(super) owner: (u32, u32),
    /// Seconds and nanoseconds since the Unix epoch.
    pub(super) mtime: (i64, i64),
}

/// What an extension says of the entry after it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<(i64, i64)>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// An archive as it comes.
pub(super) struct Archive {
    pieces: mpsc::Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
    /// Bytes of the current entry that are still to come, and after them its padding.
    left: u64,
    padding: u64,
}

/// The error for what is no archive.
pub(super) fn invalid(message: impl std::fmt::Display) -> Failure {
    refuse(ErrorCode::Invalid, format!("the archive cannot be unpacked: {message}")).into()
}

impl Archive {
    pub(super) fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self { pieces, piece: Vec::new(), at: 0, ended: false, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the mark that ends the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let mut header = Header::new_old();
            self.exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check(&header)?;
            let size = header.entry_size().map_err(invalid)?;
            let kind = header.entry_type();
            self.expect(match kind {
                kind if is_extension(kind) => size,
                _ => extended.size.unwrap_or(size),
            });
            match kind {
                EntryType::GNULongName => extended.name = Some(text(self.record()?)),
                EntryType::GNULongLink => extended.link = Some(text(self.record()?)),
                EntryType::XHeader => read_pax(&self.record()?, &mut extended)?,
                EntryType::XGlobalHeader => {}
                kind => return entry(&header, kind, extended).map(Some),
            }
        }
    }

    /// Hands the content of the current entry to `sink`.
    pub(super) fn content(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX);
            let bytes = self.some(most)?;
            let count = bytes.len();
            sink(bytes)?;
            self.left -= count as u64;
        }
        Ok(())
    }

    /// Passes over whatever comes after the archive.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.piece = Vec::new();
        while !self.ended {
            match self.pieces.blocking_recv() {
                None => return Err(Failure::Gone),
                Some(Piece::Data(_)) => {}
                Some(Piece::End) => self.ended = true,
            }
        }
        Ok(())
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<(), Failure> {
        self.left = self.left.saturating_add(self.padding);
        self.padding = 0;
        self.content(|_| Ok(()))
    }

    /// The whole content of an extension.
    fn record(&mut self) -> Result<Vec<u8>, Failure> {
        if self.left > RECORD_MAX {
            return Err(invalid(format_args!("a name or header of {} bytes", self.left)));
        }
        let mut record = Vec::new();
        self.content(|bytes| {
            record.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(record)
    }

    fn exact(&mut self, mut target: &mut [u8]) -> Result<(), Failure> {
        while !target.is_empty() {
            let bytes = self.some(target.len())?;
            let (now, later) = target.split_at_mut(bytes.len());
            now.copy_from_slice(bytes);
            target = later;
        }
        Ok(())
    }

    /// The next bytes, at least one and at most `most`.
    fn some(&mut self, most: usize) -> Result<&[u8], Failure> {
        while self.at == self.piece.len() {
            if self.ended {
                return Err(invalid("it ends in the middle"));
            }
            match self.pieces.blocking_recv() {
                None => return Err(Failure::Gone),
                Some(Piece::Data(piece)) => (self.piece, self.at) = (piece, 0),
                Some(Piece::End) => self.ended = true,
            }
        }
        let start = self.at;
        self.at += most.min(self.piece.len() - start);
        Ok(&self.piece[start..self.at])
    }
}

fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::GNULongName
            | EntryType::GNULongLink
            | EntryType::XHeader
            | EntryType::XGlobalHeader
    )
}

fn check(header: &Header) -> Result<(), Failure> {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let bytes = header.as_bytes();
    // The field itself counts as blanks.
    let actual = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    if header.cksum().map_err(invalid)? != actual {
        return Err(invalid("a header is damaged, or it is compressed or no tar archive"));
    }
    Ok(())
}

fn entry(header: &Header, kind: EntryType, extended: Extended) -> Result<Entry, Failure> {
    let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let mtime = match extended.mtime {
        Some(mtime) => mtime,
        None => (i64::try_from(header.mtime().map_err(invalid)?).unwrap_or(0), 0),
    };
    // One that is not said, or does not fit, is root.
    let id = |said: Option<u32>, header: std::io::Result<u64>| {
        said.or_else(|| header.ok().and_then(|id| id.try_into().ok())).unwrap_or(0)
    };
    let owner = (id(extended.uid, header.uid()), id(extended.gid, header.gid()));
    // What old archives call a file may be a directory.
    let is_directory = kind.is_file() && name.ends_with(b"/");
    Ok(Entry {
        kind: if is_directory { EntryType::Directory } else { kind },
        name,
        link: link.unwrap_or_default(),
        mode: header.mode().map_err(invalid)? & 0o7777,
        owner,
        mtime,
    })
}

/// A record without the null characters that end it.
fn text(mut record: Vec<u8>) -> Vec<u8> {
    let end = record.iter().position(|byte| *byte == 0).unwrap_or(record.len());
    record.truncate(end);
    record
}

fn read_pax(mut records: &[u8], extended: &mut Extended) -> Result<(), Failure> {
    let damaged = || invalid("an extended header is damaged");
    while !records.is_empty() && records[0] != 0 {
        let blank = records.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let length = std::str::from_utf8(&records[..blank]).ok().and_then(|text| text.parse().ok());
        let length: usize = length.ok_or_else(damaged)?;
        let record = records.get(blank + 1..length).ok_or_else(damaged)?;
        records = &records[length..];
        let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let number = || std::str::from_utf8(value).map_err(|_| damaged());
        match key {
            b"path" => extended.name = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => extended.size = Some(number()?.parse().map_err(|_| damaged())?),
            b"uid" => extended.uid = Some(number()?.parse().map_err(|_| damaged())?),
            b"gid" => extended.gid = Some(number()?.parse().map_err(|_| damaged())?),
            b"mtime" => extended.mtime = Some(seconds(number()?).ok_or_else(damaged)?),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(invalid("it has a sparse file; pack it without --sparse"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Seconds and nanoseconds of a decimal number.
fn seconds(text: &str) -> Option<(i64, i64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let (whole, nanos): (i64, i64) = (whole.parse().ok()?, digits.parse().ok()?);
    if nanos < 0 {
        return None;
    }
    // Before the epoch the fraction counts backwards.
    match text.starts_with('-') && nanos > 0 {
        true => Some((whole.checked_sub(1)?, 1_000_000_000 - nanos)),
        false => Some((whole, nanos)),
    }
}
