//! Guest memory as a memory file.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::Arc,
};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, ftruncate, memfd_create, seek};

use base::fault;
use xxhash_rust::xxh3::Xxh3;

use super::{PAGE, spans::Span};

/// How much is copied at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// A memory file that is one VM's own or a template's that children map privately.
///
/// QEMU before version 9 opens the file for reading and writing even for a private mapping, so a
/// template's file is sealed: no child can change what its siblings see.
#[derive(Debug, Clone)]
pub struct Ram {
    file: Arc<OwnedFd>,
    bytes: u64,
    sealed: bool,
}

impl Ram {
    /// Fresh zeroed memory of `mib` MiB, which one VM owns.
    pub fn fresh(mib: u64) -> io::Result<Self> {
        let file = memfd_create("bhatti-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let bytes = mib << 20;
        ftruncate(&file, bytes)?;
        Ok(Self { file: Arc::new(file), bytes, sealed: false })
    }

    /// Reads a template's memory from where [`save`](Self::save) put it, and seals it. Returns the
    /// checksum that `save` returned, if the file is still the same.
    pub fn load(path: &Path) -> io::Result<(Self, u64)> {
        let source: File = fs_err::File::open(path)?.into();
        let bytes = source.metadata()?.len();
        let target = memfd_create("bhatti-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&target, bytes)?;
        let mut sum = Checksum::default();
        each_chunk(&source, bytes, |at, data| -> io::Result<()> {
            sum.update(at, data);
            Ok(write_all_at(&target, data, at)?)
        })?;
        let ram = Self { file: Arc::new(target), bytes, sealed: false };
        Ok((ram.seal()?, sum.finish()))
    }

    /// Makes the memory immutable. Fails while a VM that shares it still runs.
    pub fn seal(self) -> io::Result<Self> {
        fcntl_add_seals(
            &*self.file,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        Ok(Self { sealed: true, ..self })
    }

    /// Writes the memory to a new file with holes where it is zero, and flushes it. Returns a
    /// checksum of the content.
    pub fn save(&self, path: &Path) -> io::Result<u64> {
        let source = File::from(self.file.try_clone()?);
        let target: File =
            fs_err::OpenOptions::new().write(true).create_new(true).open(path)?.into();
        fault::point("ram.write")?;
        target.set_len(self.bytes)?;
        let mut sum = Checksum::default();
        each_chunk(&source, self.bytes, |at, data| {
            sum.update(at, data);
            write_nonzero(&target, data, at)
        })?;
        fault::point("ram.flush")?;
        target.sync_all()?;
        Ok(sum.finish())
    }

    /// Takes up the memory of a VM that already runs, from an open descriptor.
    pub(crate) fn from_file(file: OwnedFd) -> io::Result<Self> {
        let bytes = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let sealed = rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::WRITE);
        Ok(Self { file: Arc::new(file), bytes, sealed })
    }

    /// The pages that were ever touched, ascending.
    pub(super) fn touched(&self) -> io::Result<Vec<Span>> {
        let mut spans = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = next_data(&self.file, at, self.bytes)? {
            let first = start / PAGE as u64;
            spans.push(Span { first, pages: end.div_ceil(PAGE as u64) - first });
            at = end;
        }
        Ok(spans)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether children may map it privately.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The inode that a mapping of this memory shows in `/proc/PID/maps`.
    pub(crate) fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&*self.file)?.st_ino)
    }
}

impl AsFd for Ram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn write_all_at(file: &OwnedFd, mut data: &[u8], mut at: u64) -> rustix::io::Result<()> {
    while !data.is_empty() {
        let n = rustix::io::pwrite(file, data, at)?;
        data = &data[n..];
        at += n as u64;
    }
    Ok(())
}

/// Writes the pages of `data` that are not all zero.
fn write_nonzero(target: &File, data: &[u8], at: u64) -> io::Result<()> {
    let mut run: Option<usize> = None;
    for (index, page) in data.chunks(PAGE).enumerate() {
        let zero = page.iter().all(|b| *b == 0);
        match (zero, run) {
            (false, None) => run = Some(index),
            (true, Some(start)) => {
                target
                    .write_all_at(&data[start * PAGE..index * PAGE], at + (start * PAGE) as u64)?;
                run = None;
            }
            _ => {}
        }
    }
    match run {
        Some(start) => target.write_all_at(&data[start * PAGE..], at + (start * PAGE) as u64),
        None => Ok(()),
    }
}

/// Calls `visit` with offset and content of every part of the file that is not a hole, at most
/// [`CHUNK`] bytes at a time.
fn each_chunk<E: From<io::Error>>(
    file: &File,
    bytes: u64,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0u8; CHUNK];
    let mut at = 0;
    while let Some((start, end)) = next_data(file, at, bytes)? {
        at = start;
        while at < end {
            let n = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            file.read_exact_at(&mut buffer[..n], at)?;
            visit(at, &buffer[..n])?;
            at += n as u64;
        }
    }
    Ok(())
}

/// Where the next part from `at` on starts and ends that is not a hole.
fn next_data(file: impl AsFd, at: u64, bytes: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= bytes {
        return Ok(None);
    }
    let start = match seek(&file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((start, seek(&file, SeekFrom::Hole(start))?.min(bytes))))
}

/// A checksum over the pages that are not zero and where they lie, so that it does not depend on
/// which holes the file system keeps.
#[derive(Default)]
struct Checksum(Xxh3);

impl Checksum {
    fn update(&mut self, at: u64, data: &[u8]) {
        for (index, page) in (at / PAGE as u64..).zip(data.chunks(PAGE)) {
            if page.iter().any(|b| *b != 0) {
                self.0.update(&index.to_le_bytes());
                self.0.update(page);
            }
        }
    }

    fn finish(self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_memory_loads_equal_and_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let ram = Ram::fresh(64).unwrap();
        let file = File::from(ram.file.try_clone().unwrap());
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(&[7; 3 * PAGE], 40 << 20).unwrap();
        file.write_all_at(&[0; 1 << 20], 20 << 20).unwrap();
        file.write_all_at(b"last", (64 << 20) - 4).unwrap();
        let sum = ram.save(&path).unwrap();
        let blocks = rustix::fs::stat(&path).unwrap().st_blocks * 512;
        assert!(blocks <= 64 << 10, "{blocks} bytes on disk for 5 pages");

        let (loaded, loaded_sum) = Ram::load(&path).unwrap();
        assert_eq!(loaded_sum, sum);
        assert!(loaded.is_sealed());
        let copy = File::from(loaded.file.try_clone().unwrap());
        let (mut a, mut b) = (vec![0; 64 << 20], vec![0; 64 << 20]);
        file.read_exact_at(&mut a, 0).unwrap();
        copy.read_exact_at(&mut b, 0).unwrap();
        assert!(a == b);
        assert!(copy.write_all_at(b"x", 0).is_err(), "a sealed template cannot be written");
    }
}
