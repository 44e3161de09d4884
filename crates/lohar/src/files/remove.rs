//! Removing, whole trees included.
//!
//! A tree is emptied from the open directory that is being worked on, never by path, so that a
//! directory which is swapped for a link meanwhile leads nowhere. The way up is `..`, with a look
//! at whether it leads back to where the way down came from; so one open directory is enough for
//! a tree of any depth.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use proto::message::WireError;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

use super::at::{Place, each_entry, enter};
use super::explain;

/// How often a directory may be found to have new entries after it was emptied.
const RETRIES: u32 = 64;

/// Serves one `FileRemove`.
pub(super) fn remove(root: &Path, path: &str, recursive: bool) -> Result<(), WireError> {
    let place = Place::of(root, "remove", path)?;
    let removed = match unlinkat(&place.directory, &place.name, AtFlags::empty()) {
        Err(Errno::ISDIR) if recursive => remove_tree(&place.directory, &place.name),
        Err(Errno::ISDIR) => unlinkat(&place.directory, &place.name, AtFlags::REMOVEDIR),
        result => result,
    };
    removed.map_err(|errno| explain("remove", path, &errno.into()))
}

/// Removes whatever `name` is.
///
/// # Errors
/// `BUSY` if something in the tree is a mount point, which is left as it is.
pub(super) fn remove_tree(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    for _ in 0..RETRIES {
        match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            result => return result,
        }
        empty(enter(parent, name)?)?;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            result => return result,
        }
    }
    Err(Errno::NOTEMPTY)
}

/// A directory on the way to the one that is being emptied.
struct Level {
    name: CString,
    /// Tells it from all others.
    key: (u64, u64),
    /// Its directories that are still there.
    left: Vec<CString>,
}

impl Level {
    /// Removes what can be at once.
    fn clear(directory: &OwnedFd, name: CString) -> Result<Self, Errno> {
        let mut left = Vec::new();
        each_entry(directory, |name, kind| {
            let removed = match kind {
                FileType::Directory => Err(Errno::ISDIR),
                _ => unlinkat(directory, name, AtFlags::empty()),
            };
            match removed {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => left.push(name.to_owned()),
                Err(errno) => return Err(errno),
            }
            Ok(())
        })?;
        Ok(Self { name, key: key(directory)?, left })
    }
}

fn empty(top: OwnedFd) -> Result<(), Errno> {
    let mut retries = 0;
    let mut levels = vec![Level::clear(&top, CString::default())?];
    let mut current = top;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            match enter(&current, &name) {
                Ok(child) => {
                    levels.push(Level::clear(&child, name)?);
                    current = child;
                }
                Err(Errno::NOENT) => {}
                // It has become something else.
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    gone(unlinkat(&current, &name, AtFlags::empty()))?;
                }
                Err(errno) => return Err(errno),
            }
            continue;
        }
        let (done, above) = (levels.pop(), levels.last_mut());
        let (Some(done), Some(above)) = (done, above) else { break };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        current = openat(&current, c"..", flags, Mode::empty())?;
        if key(&current)? != above.key {
            // It was moved away meanwhile; what is there now is none of this.
            return Err(Errno::BUSY);
        }
        match gone(unlinkat(&current, &done.name, AtFlags::REMOVEDIR)) {
            Err(Errno::NOTEMPTY) if retries < RETRIES => {
                retries += 1;
                above.left.push(done.name);
            }
            result => result?,
        }
    }
    Ok(())
}

/// What is not there need not be removed.
fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn key(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    let meta = fstat(directory)?;
    Ok((meta.st_dev, meta.st_ino))
}
