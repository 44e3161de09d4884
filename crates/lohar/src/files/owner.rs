//! Whom things belong to, and directories that are made on the way.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use proto::message::{ErrorCode, WireError};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Stat, Uid, chownat, fchown, fstat, mkdirat, statat,
};
use rustix::io::Errno;

use super::at::{change_mode, open_directory};
use super::{explain, locate};
use crate::agent::{Agent, refuse};
use crate::users::DEFAULT_UID;

/// Permission bits of a new directory.
pub(super) const NEW_DIRECTORY: u32 = 0o755;

/// User and group that something belongs to.
pub(super) type Owner = (u32, u32);

/// The parts of an owner that were asked for.
pub(super) type Wanted = (Option<u32>, Option<u32>);

/// What `USER`, `USER:GROUP` or `:GROUP` means; `USER` alone brings the user's own group.
pub(super) fn parse(agent: &Agent, text: &str) -> Result<Wanted, WireError> {
    let unknown = |what: &str, name: &str| {
        refuse(ErrorCode::UnknownUser, format!("there is no {what} {name:?} in the guest"))
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let found = match user {
        "" if group.is_empty() => return Err(unknown("user", text)),
        "" => None,
        user => Some(agent.users.find(Some(user)).ok_or_else(|| unknown("user", user))?),
    };
    let gid = match group {
        "" => found.as_ref().map(|user| user.gid),
        group => Some(agent.users.find_group(group).ok_or_else(|| unknown("group", group))?),
    };
    Ok((found.map(|user| user.uid.as_raw()), gid.map(Gid::as_raw)))
}

/// Whom something new in a directory belongs to: the directory's owner, but in one that everybody
/// may write to, the user that commands run as.
pub(super) fn heir(agent: &Agent, directory: &Stat) -> Owner {
    if directory.st_mode & 0o002 == 0 {
        return (directory.st_uid, directory.st_gid);
    }
    let default = agent.default_user();
    default.map_or((DEFAULT_UID, DEFAULT_UID), |user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// Gives what is open to `owner`, as far as this process may decide that.
pub(super) fn give(file: impl AsFd, owner: Owner) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
}

/// As [`give`], for what is called `name`, itself if it is a link.
pub(super) fn give_at<N: AsRef<OsStr>>(
    directory: impl AsFd,
    name: N,
    owner: Owner,
) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
    chownat(directory, name.as_ref(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// Serves one `MakeDirectory`.
pub(super) fn make_directory(
    agent: &Agent,
    path: &str,
    mode: Option<u32>,
    parents: bool,
) -> Result<(), WireError> {
    let failed = |errno: Errno| explain("make directory", path, &errno.into());
    let place = locate(&agent.root, path)?;
    let mode = mode.unwrap_or(NEW_DIRECTORY) & 0o7777;
    let (Some(parent), true) = (place.parent(), !path.trim_end_matches('/').is_empty()) else {
        return if parents { Ok(()) } else { Err(failed(Errno::EXIST)) };
    };
    let directory = if parents {
        open_or_make(agent, parent).map_err(failed)?
    } else {
        open_directory(parent).map_err(failed)?
    };
    // A last component that is no name, such as `..`, is there already.
    match place.file_name().map_or(Err(Errno::EXIST), |name| make_at(agent, &directory, name, mode))
    {
        Err(Errno::EXIST) if parents => match statat(CWD, &place, AtFlags::empty()) {
            Ok(meta) if FileType::from_raw_mode(meta.st_mode).is_dir() => Ok(()),
            Ok(_) => Err(failed(Errno::NOTDIR)),
            Err(errno) => Err(failed(errno)),
        },
        result => result.map_err(failed),
    }
}

/// Opens the directory at `path`; what is missing of it is made.
pub(super) fn open_or_make(agent: &Agent, path: &Path) -> Result<OwnedFd, Errno> {
    open_or_make_for(agent, path, None)
}

/// As [`open_or_make`]; what is made belongs to `owner` if one is said.
pub(super) fn open_or_make_for(
    agent: &Agent,
    path: &Path,
    owner: Option<Owner>,
) -> Result<OwnedFd, Errno> {
    match open_directory(path) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT);
    };
    let parent = open_or_make_for(agent, parent, owner)?;
    match make_for(agent, &parent, name, NEW_DIRECTORY, owner) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_directory(path)
}

/// Makes the directory `name` in another, for whom it would belong to.
pub(super) fn make_at<N: AsRef<OsStr>>(
    agent: &Agent,
    parent: &OwnedFd,
    name: N,
    mode: u32,
) -> Result<(), Errno> {
    make_for(agent, parent, name, mode, None)
}

/// As [`make_at`], for `owner` if one is said.
pub(super) fn make_for<N: AsRef<OsStr>>(
    agent: &Agent,
    parent: &OwnedFd,
    name: N,
    mode: u32,
    owner: Option<Owner>,
) -> Result<(), Errno> {
    let name = name.as_ref();
    mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let owner = match owner {
        Some(owner) => owner,
        None => heir(agent, &fstat(parent)?),
    };
    give_at(parent, name, owner)?;
    // After the owner, whose change takes special bits away.
    change_mode(parent, name, mode)
}
