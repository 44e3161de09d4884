//! The entries of the archive that a context comes as.

use std::{fs::File, io};

use disk::layer::{LayerError, Scan, Scanned};
use tar::EntryType;

/// Unit of an archive.
pub(crate) const BLOCK: u64 = 512;

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

/// The entries of an archive, in its order.
pub(super) struct Reader(Scan<File>);

impl Reader {
    pub(super) fn new(file: File) -> io::Result<Self> {
        // Of one that breaks off nobody knows what is missing.
        Ok(Self(Scan::new(file, false).map_err(failure)?))
    }

    /// The next entry; `None` at the mark that ends the archive.
    ///
    /// # Errors
    /// `InvalidData` with what is wrong, if it is no archive.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        self.0.next_entry().map_err(failure)?.map(Found::of).transpose()
    }
}

impl Found {
    fn of(entry: Scanned) -> io::Result<Self> {
        let Scanned { kind, name, link, mode, mtime, sparse, size, at } = entry;
        if sparse {
            return Err(invalid("it has a sparse file; pack it without --sparse"));
        }
        let kind = EntryType::new(kind);
        let is_directory = kind.is_file() && name.ends_with(b"/");
        Ok(Self {
            kind: if is_directory { EntryType::Directory } else { kind },
            name,
            link,
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            mtime: u64::try_from(mtime).unwrap_or(0),
            size: if is_directory { 0 } else { size },
            offset: at,
        })
    }
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn failure(error: LayerError) -> io::Error {
    match error {
        LayerError::Source(error) => error,
        LayerError::Header { at, reason } => {
            invalid(format!("no tar header at byte {at}: {reason}"))
        }
        LayerError::Truncated(what) => invalid(format!("it ends in the middle: {what}")),
        other => invalid(other.to_string()),
    }
}
