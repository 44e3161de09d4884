//! Reading the headers of a tar archive that lies in a file. Contents are passed over.
//!
//! Whatever the archive claims, no more than the limits below is held in memory.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use tar::{EntryType, Header};

/// Unit of an archive.
pub(crate) const BLOCK: u64 = 512;

/// Bytes of a long name or of an entry's extended header.
const RECORD_MAX: u64 = 1 << 20;

/// One entry as the archive says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub kind: EntryType,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub mtime: u64,
    pub size: u64,
    /// Where its content begins in the file.
    pub offset: u64,
}

/// What an extension says of the entry after it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The entries of an archive, in its order.
pub(super) struct Reader {
    file: io::BufReader<File>,
    length: u64,
    at: u64,
}

impl Reader {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut file = io::BufReader::new(file);
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, length, at: 0 })
    }

    /// The next entry; `None` at the mark that ends the archive.
    ///
    /// # Errors
    /// `InvalidData` with what is wrong, if it is no archive.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        let mut extended = Extended::default();
        loop {
            let mut header = Header::new_old();
            self.exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check(&header)?;
            let size = header.entry_size().map_err(|_| invalid("a size is damaged"))?;
            match header.entry_type() {
                EntryType::GNULongName => extended.name = Some(text(self.record(size)?)),
                EntryType::GNULongLink => extended.link = Some(text(self.record(size)?)),
                EntryType::XHeader => read_pax(&self.record(size)?, &mut extended)?,
                EntryType::XGlobalHeader => self.skip(size)?,
                kind => return self.found(&header, kind, size, extended).map(Some),
            }
        }
    }

    fn found(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extended: Extended,
    ) -> io::Result<Found> {
        let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = header.link_name_bytes().map(std::borrow::Cow::into_owned);
        let is_directory = kind.is_file() && name.ends_with(b"/");
        let kind = if is_directory { EntryType::Directory } else { kind };
        let has_content = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let size = extended.size.unwrap_or(size);
        let offset = self.at;
        self.skip(size)?;
        Ok(Found {
            kind,
            name,
            link: extended.link.or(link).unwrap_or_default(),
            mode: header.mode().map_err(|_| invalid("a mode is damaged"))? & 0o7777,
            mtime: header.mtime().unwrap_or(0),
            size: if has_content { size } else { 0 },
            offset,
        })
    }

    /// Passes over what is left of a content, and what fills its last block up.
    fn skip(&mut self, size: u64) -> io::Result<()> {
        let end = self.at.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK));
        let end = end.filter(|end| *end <= self.length).ok_or_else(cut)?;
        let by = i64::try_from(end - self.at).map_err(|_| cut())?;
        self.file.seek_relative(by)?;
        self.at = end;
        Ok(())
    }

    fn record(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > RECORD_MAX {
            return Err(invalid("a name or header is too long"));
        }
        let mut record = vec![0; usize::try_from(size).map_err(|_| cut())?];
        self.exact(&mut record)?;
        self.skip(0)?;
        Ok(record)
    }

    fn exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(target).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut(),
            _ => error,
        })?;
        self.at += target.len() as u64;
        Ok(())
    }
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn cut() -> io::Error {
    invalid("it ends in the middle")
}

fn check(header: &Header) -> io::Result<()> {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let bytes = header.as_bytes();
    // The field itself counts as blanks.
    let actual = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    if header.cksum().ok() != Some(actual) {
        return Err(invalid("a header is damaged, or it is no tar archive"));
    }
    Ok(())
}

/// A record without the null characters that end it.
fn text(mut record: Vec<u8>) -> Vec<u8> {
    let end = record.iter().position(|byte| *byte == 0).unwrap_or(record.len());
    record.truncate(end);
    record
}

fn read_pax(mut records: &[u8], extended: &mut Extended) -> io::Result<()> {
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
        match key {
            b"path" => extended.name = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                extended.size = Some(size.ok_or_else(damaged)?);
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(invalid("it has a sparse file; pack it without --sparse"));
            }
            _ => {}
        }
    }
    Ok(())
}
