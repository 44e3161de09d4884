//! Moving, also to another file system.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use proto::message::{ErrorCode, WireError};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fstat, openat, renameat_with, statat,
    syncfs,
};
use rustix::io::Errno;

use super::at::{Place, is_mount_point, with_fresh_name};
use super::copy::copy_tree;
use super::explain;
use super::remove::remove_tree;
use crate::agent::refuse;

/// Serves a `FileMove` within one file system; answers whether it was one.
pub(super) fn rename(root: &Path, from: &str, to: &str, replace: bool) -> Result<bool, WireError> {
    let (source, target, flags) = ends(root, from, to, replace)?;
    let renamed =
        renameat_with(&source.directory, &source.name, &target.directory, &target.name, flags);
    match renamed {
        Err(Errno::XDEV) => Ok(false),
        Err(errno) => Err(explain_move(from, to, errno)),
        Ok(()) => Ok(true),
    }
}

/// Serves a `FileMove` to another file system.
pub(super) fn across(root: &Path, from: &str, to: &str, replace: bool) -> Result<(), WireError> {
    let (source, target, flags) = ends(root, from, to, replace)?;
    copy_over(&source, &target, flags).map_err(|errno| explain_move(from, to, errno))?;
    remove_tree(&source.directory, &source.name).map_err(|errno| {
        let error = explain("remove", from, &errno.into());
        let message = format!("{to} is in place, but not all of the old is gone: {error}");
        refuse(error.code, message)
    })
}

fn ends(
    root: &Path,
    from: &str,
    to: &str,
    replace: bool,
) -> Result<(Place, Place, RenameFlags), WireError> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    Ok((Place::of(root, "move", from)?, Place::of(root, "move to", to)?, flags))
}

fn explain_move(from: &str, to: &str, errno: Errno) -> WireError {
    if errno == Errno::INVAL {
        let message = format!("move {from} to {to}: a directory cannot be moved into itself");
        return refuse(ErrorCode::Invalid, message);
    }
    explain("move", &format!("{from} to {to}"), &errno.into())
}

/// Copies to beside the target and renames that, so that there is all or nothing.
fn copy_over(source: &Place, target: &Place, flags: RenameFlags) -> Result<(), Errno> {
    let look = |place: &Place| statat(&place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW);
    let meta = look(source)?;
    let is_dir = |meta: &Stat| FileType::from_raw_mode(meta.st_mode).is_dir();
    match look(target) {
        Err(Errno::NOENT) => {}
        Ok(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST),
        Ok(there) if is_dir(&there) && !is_dir(&meta) => return Err(Errno::ISDIR),
        Ok(there) if !is_dir(&there) && is_dir(&meta) => return Err(Errno::NOTDIR),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    if is_mount_point(&source.directory, &source.name)? {
        return Err(Errno::BUSY);
    }
    if is_dir(&meta) && is_inside(&target.directory, &meta)? {
        return Err(Errno::INVAL);
    }
    let (name, ()) = with_fresh_name(|name| {
        // Only the first thing that is made may meet the name of another.
        match copy_tree(source, &target.directory, name) {
            Err(errno) if errno != Errno::EXIST => {
                let _ = remove_tree(&target.directory, name);
                Err(errno)
            }
            result => result,
        }
    })?;
    let temporary = Temporary { directory: &target.directory, name, placed: false };
    syncfs(reopen(&target.directory)?)?;
    temporary.place(target, flags)
}

/// A copy that is gone again unless it is put in place.
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: CString,
    placed: bool,
}

impl Temporary<'_> {
    fn place(mut self, target: &Place, flags: RenameFlags) -> Result<(), Errno> {
        renameat_with(self.directory, &self.name, &target.directory, &target.name, flags)?;
        self.placed = true;
        rustix::fs::fsync(reopen(self.directory)?)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing more can be done about it.
            let _ = remove_tree(self.directory, &self.name);
        }
    }
}

/// A descriptor that can be flushed, of a directory that was only looked up.
fn reopen(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(directory, c".", flags, Mode::empty())
}

/// Whether `directory` is what `tree` describes or below it.
fn is_inside(directory: &OwnedFd, tree: &Stat) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let key = |meta: &Stat| (meta.st_dev, meta.st_ino);
    let mut current = openat(directory, c".", flags, Mode::empty())?;
    let mut here = fstat(&current)?;
    loop {
        if key(&here) == key(tree) {
            return Ok(true);
        }
        current = openat(&current, c"..", flags, Mode::empty())?;
        let above = fstat(&current)?;
        if key(&above) == key(&here) {
            return Ok(false);
        }
        here = above;
    }
}
