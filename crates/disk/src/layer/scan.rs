//! The entries of an uncompressed tar archive that can be read in any order. Contents are passed over:
//! it is said where they are.
//!
//! Whatever the archive claims, no more than a header and what extends it is held in memory.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::{
    LayerError,
    entries::{self, Blocks},
    header::{BLOCK, Header},
    pax::Extensions,
};

/// One entry, as all of its headers say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The byte by which archives tell kinds apart, such as `b'2'` for a symbolic link.
    pub kind: u8,
    /// Its name, as it is written.
    pub name: Vec<u8>,
    /// What it links to, as that is written.
    pub link: Vec<u8>,
    /// Its mode.
    pub mode: i64,
    /// Unix seconds.
    pub mtime: i64,
    /// Whether its content is stored in a way of which it does not follow what the file's is.
    pub sparse: bool,
    /// Length of its content, in bytes; 0 if entries of its kind have none, whatever it says.
    pub size: u64,
    /// Where its content begins in the archive.
    pub at: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Scan<R> {
    archive: BufReader<R>,
    at: u64,
    end: u64,
    may_lack_end: bool,
}

impl<R: Read + Seek> Scan<R> {
    /// Begins at the archive's first byte. Unless it `may_lack_end` zeros have to say where it ends.
    ///
    /// # Errors
    /// [`LayerError::Source`].
    pub fn new(mut archive: R, may_lack_end: bool) -> Result<Self, LayerError> {
        let end = archive.seek(SeekFrom::End(0)).map_err(LayerError::Source)?;
        archive.seek(SeekFrom::Start(0)).map_err(LayerError::Source)?;
        let archive = BufReader::with_capacity(BLOCK * 8, archive);
        Ok(Self { archive, at: 0, end, may_lack_end })
    }

    /// The next entry; `None` at the archive's end.
    ///
    /// # Errors
    /// [`LayerError::Header`] and [`LayerError::Truncated`] for what is no archive,
    /// [`LayerError::Source`].
    pub fn next_entry(&mut self) -> Result<Option<Scanned>, LayerError> {
        match entries::next(self)? {
            Some((header, told)) => self.entry(header, told).map(Some),
            None => Ok(None),
        }
    }

    fn entry(&mut self, header: Header, told: Extensions) -> Result<Scanned, LayerError> {
        let at = self.at;
        let reason = "its size is negative";
        let size = u64::try_from(told.size.unwrap_or(header.size))
            .map_err(|_| LayerError::Header { at, reason })?;
        // These have no content, whatever they say. What is of an unknown kind has one.
        let size = if matches!(header.kind, b'1'..=b'6') { 0 } else { size };
        self.pass(size)?;
        Ok(Scanned {
            kind: header.kind,
            name: told.path.unwrap_or(header.name),
            link: told.link.unwrap_or(header.link),
            mode: header.mode,
            mtime: told.mtime.map_or(header.mtime, |(seconds, _)| seconds),
            sparse: told.sparse || header.kind == b'S',
            size,
            at,
        })
    }
}

impl<R: Read + Seek> Blocks for Scan<R> {
    fn begin(&mut self) -> Result<u64, LayerError> {
        Ok(self.at)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        if self.at == self.end {
            if self.may_lack_end {
                return Ok(None);
            }
            return Err(LayerError::Truncated("the archive's end is missing"));
        }
        let mut block = [0; BLOCK];
        match self.archive.read_exact(&mut block) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LayerError::Truncated("a header is not complete"));
            }
            Err(error) => return Err(LayerError::Source(error)),
        }
        self.at += BLOCK as u64;
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    fn record(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut bytes = Vec::new();
        (&mut self.archive).take(size).read_to_end(&mut bytes).map_err(LayerError::Source)?;
        if bytes.len() as u64 != size {
            return Err(LayerError::Truncated("an extended header is not complete"));
        }
        self.at += size;
        // Somebody may have cut off the last padding.
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let padding = padding.min(self.end.saturating_sub(self.at));
        self.archive
            .seek_relative(i64::try_from(padding).unwrap_or_default())
            .map_err(LayerError::Source)?;
        self.at += padding;
        Ok(bytes)
    }

    fn pass(&mut self, size: u64) -> Result<(), LayerError> {
        let next = size.checked_next_multiple_of(BLOCK as u64);
        let next = next.and_then(|padded| self.at.checked_add(padded));
        let complete = self.at.checked_add(size).is_some_and(|content| content <= self.end);
        let Some(next) = next.filter(|_| complete) else {
            return Err(LayerError::Truncated("a file's content is not complete"));
        };
        // Somebody may have cut off the last padding.
        let next = next.min(self.end);
        let by = i64::try_from(next - self.at).unwrap_or(i64::MAX);
        self.archive.seek_relative(by).map_err(LayerError::Source)?;
        self.at = next;
        Ok(())
    }
}
