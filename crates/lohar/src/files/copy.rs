//! Copying a tree as it is: modes, owners, times, links of both kinds, holes.
//!
//! One directory of the source and its copy are open at a time; both are found from the open top
//! without following links.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid, chownat, fchmod, fchown, fstat,
    ftruncate, futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
    utimensat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::at::{Place, beneath, change_mode, each_entry, enter, open_beneath, split, times};

/// Bytes that are copied at once.
const BLOCK: usize = 256 * 1024;

/// One end of the copy: an open directory and, in it, a name.
type End<'a> = (&'a OwnedFd, &'a CStr);

struct Copy {
    buffer: Vec<u8>,
    device: u64,
    /// First names, below the top, of files that have more than one.
    linked: HashMap<u64, Vec<u8>>,
}

/// Copies `source` to `name` in `directory`, which must not be there.
///
/// # Errors
/// `EXIST` if `name` is, and then nothing was made; `BUSY` if the source has a mount point.
pub(super) fn copy_tree(source: &Place, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let meta = statat(&source.directory, &source.name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut copy = Copy { buffer: Vec::new(), device: meta.st_dev, linked: HashMap::new() };
    copy.one((&source.directory, &source.name), (directory, name), &meta)?;
    if FileType::from_raw_mode(meta.st_mode).is_dir() {
        let from = enter(&source.directory, &source.name)?;
        let to = enter(directory, name)?;
        // A name that is taken in a fresh directory is not the one that was to be made.
        copy.tree(&from, &to, &meta).map_err(|errno| match errno {
            Errno::EXIST => Errno::BUSY,
            errno => errno,
        })?;
    }
    Ok(())
}

impl Copy {
    fn tree(&mut self, from: &OwnedFd, to: &OwnedFd, top: &Stat) -> Result<(), Errno> {
        let mut left = vec![Vec::new()];
        let mut made: Vec<(Vec<u8>, Timestamps)> = vec![(Vec::new(), times(top))];
        while let Some(path) = left.pop() {
            let open = |top| {
                let path: &[u8] = if path.is_empty() { b"." } else { &path };
                open_beneath(top, path, OFlags::RDONLY | OFlags::DIRECTORY)
            };
            let (source, target) = (open(from)?, open(to)?);
            if fstat(&source)?.st_dev != self.device {
                return Err(Errno::BUSY);
            }
            each_entry(&source, |name, _| {
                let meta = match statat(&source, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => return Ok(()),
                    meta => meta?,
                };
                let below = beneath(&path, name.to_bytes());
                if self.link(to, (&target, name), &meta, &below)? {
                    return Ok(());
                }
                self.one((&source, name), (&target, name), &meta)?;
                if FileType::from_raw_mode(meta.st_mode).is_dir() {
                    made.push((below.clone(), times(&meta)));
                    left.push(below);
                }
                Ok(())
            })?;
        }
        // What is made in a directory changes its times.
        for (path, times) in made.iter().rev() {
            let path: &[u8] = if path.is_empty() { b"." } else { path };
            futimens(open_beneath(to, path, OFlags::RDONLY | OFlags::DIRECTORY)?, times)?;
        }
        Ok(())
    }

    /// Makes another name of what has been copied already; answers whether it was.
    fn link(
        &mut self,
        top: &OwnedFd,
        target: End<'_>,
        meta: &Stat,
        below: &[u8],
    ) -> Result<bool, Errno> {
        if meta.st_nlink < 2 || FileType::from_raw_mode(meta.st_mode).is_dir() {
            return Ok(false);
        }
        let Some(first) = self.linked.get(&meta.st_ino) else {
            self.linked.insert(meta.st_ino, below.to_vec());
            return Ok(false);
        };
        let (parent, name) = split(first);
        let parent = open_beneath(top, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        linkat(parent, name, target.0, target.1, AtFlags::empty())?;
        Ok(true)
    }

    /// Copies one entry, but not what is in it.
    fn one(&mut self, from: End<'_>, to: End<'_>, meta: &Stat) -> Result<(), Errno> {
        match FileType::from_raw_mode(meta.st_mode) {
            FileType::RegularFile => return self.file(from, to, meta),
            FileType::Directory => mkdirat(to.0, to.1, Mode::from_raw_mode(0o700))?,
            FileType::Symlink => symlinkat(readlinkat(from.0, from.1, Vec::new())?, to.0, to.1)?,
            kind => mknodat(to.0, to.1, kind, Mode::from_raw_mode(0o600), meta.st_rdev)?,
        }
        let (uid, gid) = owner(meta);
        chownat(to.0, to.1, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if !FileType::from_raw_mode(meta.st_mode).is_symlink() {
            change_mode(to.0, to.1, meta.st_mode)?;
        }
        utimensat(to.0, to.1, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn file(&mut self, from: End<'_>, to: End<'_>, meta: &Stat) -> Result<(), Errno> {
        let source = open_beneath(from.0, from.1, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = openat(to.0, to.1, flags, Mode::from_raw_mode(0o600))?;
        self.buffer.resize(BLOCK, 0);
        let is_sparse = meta.st_blocks.saturating_mul(512) < meta.st_size;
        let mut at = 0;
        loop {
            let count = retry_on_intr(|| pread(&source, &mut *self.buffer, at))?;
            if count == 0 {
                break;
            }
            let block = &self.buffer[..count];
            if !is_sparse || block.iter().any(|byte| *byte != 0) {
                write_at(&target, block, at)?;
            }
            at += count as u64;
        }
        if is_sparse {
            ftruncate(&target, at)?;
        }
        let (uid, gid) = owner(meta);
        fchown(&target, uid, gid)?;
        fchmod(&target, Mode::from_raw_mode(meta.st_mode & 0o7777))?;
        futimens(&target, &times(meta))
    }
}

fn owner(meta: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.st_uid)), Some(Gid::from_raw(meta.st_gid)))
}

fn write_at(file: impl AsFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = retry_on_intr(|| pwrite(&file, bytes, at))?;
        bytes = &bytes[count..];
        at += count as u64;
    }
    Ok(())
}
