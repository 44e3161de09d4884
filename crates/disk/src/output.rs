//! A stored file in the making, hashed on the way.

use std::{
    io::{self, BufWriter, Write as _},
    path::Path,
};

use base::hash;
use fs_err as fs;

use crate::{BLOCK, BLOCK_SIZE, FileEntry};

/// How much is written at once, in bytes.
const BUFFER: usize = 1 << 20;

const ZEROS: [u8; BLOCK] = [0; BLOCK];

#[derive(Debug)]
pub(crate) struct Output {
    name: &'static str,
    file: BufWriter<fs::File>,
    hasher: hash::Stream,
    length: u64,
}

impl Output {
    /// A new file of that name.
    pub(crate) fn create(directory: &Path, name: &'static str) -> io::Result<Self> {
        let file =
            fs::OpenOptions::new().write(true).create_new(true).open(directory.join(name))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { name, file, hasher: hash::Stream::default(), length: 0 })
    }

    /// How many bytes it has so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Writes zeros up to a length; nothing if it is longer already.
    pub(crate) fn pad_to(&mut self, length: u64) -> io::Result<()> {
        while self.length < length {
            let missing = usize::try_from(length - self.length).unwrap_or(usize::MAX);
            self.write(&ZEROS[..missing.min(ZEROS.len())])?;
        }
        Ok(())
    }

    /// Writes zeros up to the end of the block.
    pub(crate) fn pad_block(&mut self) -> io::Result<()> {
        self.pad_to(self.length.next_multiple_of(BLOCK_SIZE))
    }

    /// Hands everything to the kernel; it is not flushed.
    pub(crate) fn finish(mut self) -> io::Result<FileEntry> {
        self.file.flush()?;
        let path = self.name.to_owned();
        Ok(FileEntry { path, sha256: self.hasher.finish(), size: self.length })
    }
}
