//! Where the bytes of a backup come from and where they go.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

/// A disk that does not change while it is read.
pub trait Source {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// The first range at or after `from` that may hold anything but zeros; `None` if only zeros
    /// are left. Ranges need no alignment, are not empty, and may go beyond the end.
    ///
    /// # Errors
    /// If it cannot be read.
    fn next_data(&mut self, from: u64) -> io::Result<Option<Range<u64>>>;

    /// Fills `buffer` with what is at `offset`, which is within the disk.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// What a backup is read into. What is not written reads as zeros.
pub trait Target {
    /// The disk has so many bytes; said once, before anything is written.
    ///
    /// # Errors
    /// If there is no room for that.
    fn begin(&mut self, size: u64) -> io::Result<()>;

    /// Puts `data` at `offset`.
    ///
    /// # Errors
    /// If it cannot be written.
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;
}

/// A raw file, whose holes are zeros.
impl Source for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |meta| meta.len())
    }

    fn next_data(&mut self, from: u64) -> io::Result<Option<Range<u64>>> {
        let start = match seek(&*self, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that does not know holes has data everywhere.
            Err(Errno::INVAL) => from,
            Err(error) => return Err(error.into()),
        };
        let size = self.metadata()?.len();
        let end = seek(&*self, SeekFrom::Hole(start)).unwrap_or(size);
        Ok((start < size).then_some(start..end.max(start + 1)))
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// A new, empty file, which stays sparse.
impl Target for File {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }
}
