//! Files by way of an open directory, so that nothing that happens to a path meanwhile leads
//! anywhere else.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::message::{ErrorCode, WireError};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat, StatxAttributes, StatxFlags,
    Timespec, Timestamps, chmod, openat, openat2, statx,
};
use rustix::io::Errno;

use super::{explain, locate};
use crate::agent::refuse;

/// Bytes of entries that are read at once.
const ENTRIES: usize = 32 * 1024;

/// How a directory is opened to be read.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Where something is: its name in an open directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: CString,
}

impl Place {
    /// Where the absolute `path` of the guest is; what stands there is not looked at.
    pub(super) fn of(root: &Path, action: &str, path: &str) -> Result<Self, WireError> {
        let place = locate(root, path)?;
        let trimmed = path.trim_end_matches('/');
        let name = trimmed.rsplit('/').next().unwrap_or_default();
        let (Some(parent), false) = (place.parent(), matches!(name, "" | "." | "..")) else {
            let message = format!("{path} does not end with the name of a file or directory");
            return Err(refuse(ErrorCode::Invalid, message));
        };
        let failed = |error: io::Error| explain(action, path, &error);
        let name = CString::new(name).map_err(|error| failed(error.into()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            openat(CWD, parent, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { directory, name })
    }
}

/// Opens a directory for reading, by whatever way leads there.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, DIRECTORY, Mode::empty())
}

/// Opens the directory `name` of `parent` for reading, if it is one and not a link to one.
///
/// # Errors
/// `BUSY` if something is mounted there.
pub(super) fn enter(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    match openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => Err(Errno::BUSY),
        result => result,
    }
}

/// Opens what is at the relative path `name` below `directory`; no link is followed.
///
/// # Errors
/// `LOOP` if there is a link on the way or at its end.
pub(super) fn open_beneath(
    directory: impl AsFd,
    name: impl rustix::path::Arg,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(directory, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// `name` below the relative path `parent`, which is empty for the top.
pub(super) fn beneath(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Directory and last name of a relative path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        None => (b".", path),
        Some(at) => (&path[..at], &path[at + 1..]),
    }
}

/// Sets the mode of what is called `name`; a link in its place is not followed.
pub(super) fn change_mode(
    directory: impl AsFd,
    name: impl rustix::path::Arg,
    mode: u32,
) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    // The kernels in question have no call that does this.
    chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(mode & 0o7777))
}

/// The times of a file, to be given to another.
pub(super) fn times(meta: &Stat) -> Timestamps {
    let nanos = |nanos| i64::try_from(nanos).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: meta.st_atime, tv_nsec: nanos(meta.st_atime_nsec) },
        last_modification: Timespec { tv_sec: meta.st_mtime, tv_nsec: nanos(meta.st_mtime_nsec) },
    }
}

/// Whether something is mounted at `name`.
pub(super) fn is_mount_point(directory: impl AsFd, name: &CStr) -> Result<bool, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(directory, name, flags, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Tells `each` the name and, as far as the file system says, the type of every entry of a
/// directory that has just been opened.
pub(super) fn each_entry(
    directory: impl AsFd,
    mut each: impl FnMut(&CStr, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut buffer: Vec<u8> = Vec::with_capacity(ENTRIES);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // Removed while it was being read: it has no entries.
            Err(Errno::NOENT) => return Ok(()),
            entry => entry?,
        };
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            each(entry.file_name(), entry.file_type())?;
        }
    }
    Ok(())
}

/// A name that nothing of ours has had in this life of the agent; something older may.
pub(super) fn fresh_name() -> CString {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!(".lohar-{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
    CString::new(name).unwrap_or_default()
}

/// Does `make` with fresh names until it meets one that is not taken.
pub(super) fn with_fresh_name<T>(
    mut make: impl FnMut(&CStr) -> Result<T, Errno>,
) -> Result<(CString, T), Errno> {
    loop {
        let name = fresh_name();
        match make(&name) {
            Err(Errno::EXIST) => {}
            result => return result.map(|made| (name, made)),
        }
    }
}
