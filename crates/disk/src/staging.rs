//! Directories in the making.
//!
//! A [`Staging`] directory has a name that no reader looks at, is readable by its owner only, is
//! removed when dropped, and is held by a `flock` for as long as its maker lives, so that
//! [`sweep`] can tell the leavings of a crash from work in progress in another process.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use base::files;
use fs_err as fs;
use rustix::{
    fs::{FlockOperation, Mode},
    io::Errno,
};

#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    _held: fs::File,
}

impl Staging {
    /// A fresh directory inside `parent`, which is made if it does not exist.
    pub(crate) fn inside(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        // Shared with other makers and against the sweeper: between the two calls below the new
        // directory is not held yet.
        let _no_sweep = lock(parent, FlockOperation::LockShared)?;
        let path = files::temporary_sibling(&parent.join("new"));
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        match lock(&path, FlockOperation::LockExclusive) {
            Ok(held) => Ok(Self { path, _held: held }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes everything and makes it visible as `target`. That `target` exists is no error and
    /// drops this directory: names are derived from content, so somebody else was faster with
    /// the same.
    pub(crate) fn commit(self, target: &Path) -> io::Result<()> {
        rustix::fs::chmod(&self.path, Mode::from_raw_mode(0o755))?;
        self.commit_private(target)
    }

    /// The same, but nobody but the owner can look into it.
    pub(crate) fn commit_private(self, target: &Path) -> io::Result<()> {
        sync_tree(&self.path)?;
        match files::commit_directory(&self.path, target) {
            Err(error) if is_taken(&error) && target.is_dir() => files::sync_parent(target),
            other => other,
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a commit there is nothing under this name.
        let _ = files::remove_any(&self.path);
    }
}

/// Whether a directory could not get its name because there is one.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Takes a `flock` on a directory; it is held until the returned file is dropped.
pub(crate) fn lock(directory: &Path, operation: FlockOperation) -> io::Result<fs::File> {
    let file = fs::File::open(directory)?;
    loop {
        match rustix::fs::flock(file.as_fd(), operation) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes the staging directories in `parent` whose makers are gone.
pub(crate) fn sweep(parent: &Path) -> io::Result<usize> {
    if !parent.exists() {
        return Ok(0);
    }
    let _no_makers = lock(parent, FlockOperation::LockExclusive)?;
    let marker = files::temporary_sibling(Path::new(""));
    let prefix = marker.to_string_lossy().split('-').next().unwrap_or_default().to_owned() + "-";
    let mut removed = 0;
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with(&prefix) || !path.is_dir() {
            continue;
        }
        match lock(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok(_held) => {
                files::remove_any(&path)?;
                removed += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Flushes every file and directory below `directory`; `directory` itself comes last.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    files::sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_directory_goes_and_a_held_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let held = Staging::inside(dir.path()).unwrap();
        fs::create_dir_all(files::temporary_sibling(&dir.path().join("new")).join("x")).unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 1);
        assert!(held.path().is_dir());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
        assert!(dir.path().join("kept").is_dir());
    }

    #[test]
    fn the_second_of_two_equal_commits_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        let (first, second) =
            (Staging::inside(dir.path()).unwrap(), Staging::inside(dir.path()).unwrap());
        fs::write(first.path().join("f"), b"1").unwrap();
        fs::write(second.path().join("f"), b"2").unwrap();
        first.commit(&target).unwrap();
        second.commit(&target).unwrap();
        assert_eq!(fs::read(target.join("f")).unwrap(), b"1");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
