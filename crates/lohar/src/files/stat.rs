//! Facts about one path.

use std::ffi::CStr;
use std::os::fd::AsFd;

use proto::message::{FileKind, FileStat, Response, WireError};
use rustix::fs::{AtFlags, CWD, FileType, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::{explain, locate};
use crate::agent::Agent;

/// Serves one `FileStat`.
pub(super) fn stat(agent: &Agent, path: &str, no_follow: bool) -> Result<Response, WireError> {
    let failed = |errno: Errno| explain("stat", path, &errno.into());
    let place = locate(&agent.root, path)?;
    if !no_follow {
        return Ok(Response::Stat(facts(&statat(CWD, &place, AtFlags::empty()).map_err(failed)?)));
    }
    let meta = statat(CWD, &place, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let mut stat = facts(&meta);
    if stat.kind == FileKind::Symlink {
        let target = readlinkat(CWD, &place, Vec::new()).map_err(failed)?;
        stat.target = Some(target.to_string_lossy().into_owned());
    }
    Ok(Response::Stat(stat))
}

/// The facts about an entry of a directory, itself if it is a link.
pub(super) fn entry(directory: impl AsFd, name: &CStr) -> Result<FileStat, Errno> {
    let directory = directory.as_fd();
    let mut stat = facts(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
    if stat.kind == FileKind::Symlink {
        let target = readlinkat(directory, name, Vec::new())?;
        stat.target = Some(target.to_string_lossy().into_owned());
    }
    Ok(stat)
}

/// What the host is told of `meta`.
pub(super) fn facts(meta: &Stat) -> FileStat {
    let kind = match FileType::from_raw_mode(meta.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileStat {
        size: u64::try_from(meta.st_size).unwrap_or(0),
        mode: meta.st_mode & 0o7777,
        kind,
        mtime: meta.st_mtime,
        uid: meta.st_uid,
        gid: meta.st_gid,
        target: None,
    }
}
