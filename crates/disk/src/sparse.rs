//! Copies of sparse files that stay sparse.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use fs_err as fs;
use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The file system shares the data: nothing was copied.
    Reflink,
    /// So many bytes of data were copied; holes stayed holes.
    Data(u64),
}

/// How much is copied at once where the kernel cannot do it, in bytes.
const CHUNK: usize = 1 << 20;

/// Copies `from` to the new file `to`, without flushing it. On failure `to` is removed.
///
/// # Errors
/// If `from` cannot be read, or `to` exists or cannot be written.
pub fn copy(from: &Path, to: &Path) -> io::Result<Copied> {
    let source = fs::File::open(from)?;
    let target = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    let copied = copy_files(source.file(), target.file()).map_err(|error| {
        let text = format!("copy {} to {}: {error}", from.display(), to.display());
        io::Error::new(error.kind(), text)
    });
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

/// Makes the empty file `target` a copy of `source`. The position of `source` moves.
///
/// # Errors
/// If reading or writing fails; `target` is incomplete then.
pub fn copy_files(source: &File, target: &File) -> io::Result<Copied> {
    if ioctl_ficlone(target, source).is_ok() {
        return Ok(Copied::Reflink);
    }
    copy_extents(source, target).map(Copied::Data)
}

/// The bytes that a file occupies on the disk, which for a sparse file is less than its size.
///
/// # Errors
/// If the file cannot be examined.
pub fn allocated_bytes(path: &Path) -> io::Result<u64> {
    // st_blocks counts 512 bytes whatever the file system's block size is, see stat(3type).
    Ok(fs::metadata(path)?.blocks() * 512)
}

fn copy_extents(source: &File, target: &File) -> io::Result<u64> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let (mut position, mut copied) = (0, 0);
    while position < size {
        let start = match seek(source, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            // A file system that does not know holes has data everywhere.
            Err(Errno::INVAL) => position,
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        copy_range(source, target, start, end)?;
        copied += end.saturating_sub(start);
        position = end.max(start + 1);
    }
    Ok(copied)
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while write_at < end {
        let wanted = usize::try_from(end - write_at).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), wanted) {
            // The file became shorter: the rest is the hole that set_len made.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_by_hand(source, target, write_at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut position = start;
    while position < end {
        let wanted = CHUNK.min(usize::try_from(end - position).unwrap_or(CHUNK));
        let n = source.read_at(&mut buffer[..wanted], position)?;
        if n == 0 {
            break;
        }
        target.write_all_at(&buffer[..n], position)?;
        position += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(path: &Path) -> Vec<u8> {
        let file = File::create(path).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[7; 5000], 1 << 20).unwrap();
        file.write_all_at(b"end", (40 << 20) + 1).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn a_copy_is_equal_and_keeps_its_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let content = sample(&from);
        copy(&from, &to).unwrap();
        assert!(fs::read(&to).unwrap() == content);
        assert!(allocated_bytes(&to).unwrap() < 1 << 20);
        assert_eq!(copy(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(to.exists());
    }

    #[test]
    fn copying_by_hand_gives_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let content = sample(&from);
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        copy_by_hand(&source, &target, 0, content.len() as u64).unwrap();
        assert!(fs::read(&to).unwrap() == content);
        let again = File::create(dir.path().join("again")).unwrap();
        assert!(copy_extents(&source, &again).unwrap() < 1 << 20);
        assert!(fs::read(dir.path().join("again")).unwrap() == content);
    }
}
