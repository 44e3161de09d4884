//! Unpacking a tar archive, and never outside of the directory that it is unpacked into.
//!
//! Every entry is made in a directory that was found from the open top without following a link,
//! and nothing that is there is ever written to: it is replaced. So neither what the archive
//! brings nor what was there before leads anywhere else.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, Ownership, Response, WireError};
use proto::mux::Stream;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, fstat, futimens, linkat,
    mknodat, openat, renameat, statat, symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;
use tokio::sync::{mpsc, oneshot};

use super::archive::{Archive, Entry, Piece, invalid};
use super::at::{change_mode, open_beneath, open_directory, split, with_fresh_name};
use super::owner::{self, NEW_DIRECTORY, Owner, give, give_at, heir, make_for, open_or_make_for};
use super::write::write_all;
use super::{Failure, explain, locate};
use crate::agent::{Agent, refuse};

/// Frames that wait to be unpacked.
const FRAMES: usize = 4;

/// Serves one `Unpack`.
pub(super) async fn unpack(
    agent: &Arc<Agent>,
    path: String,
    owner: Option<Ownership>,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let (sender, pieces) = mpsc::channel(FRAMES);
    let (done, mut result) = oneshot::channel();
    let agent = Arc::clone(agent);
    let work = move || {
        // Nobody listens any more if the host has left.
        let _ = done.send(Unpack::run(&agent, &path, owner, Archive::new(pieces)));
    };
    super::on_own_thread("unpack", work)?;
    let fed = tokio::select! {
        biased;
        result = &mut result => return finished(result),
        fed = feed(stream, &sender) => fed,
    };
    // Without the end that tells the thread to stop.
    drop(sender);
    let result = finished(result.await);
    fed.and(result)
}

fn finished(
    result: Result<Result<(), Failure>, oneshot::error::RecvError>,
) -> Result<Response, Failure> {
    result.map_err(|_| Failure::Gone)?.map(|()| Response::Done)
}

/// Hands over what comes, until it ends or is not wanted any more.
async fn feed(stream: &mut Stream, pieces: &mpsc::Sender<Piece>) -> Result<(), Failure> {
    loop {
        let Some(frame) = stream.recv().await? else { return Err(Failure::Gone) };
        if frame.kind != FrameKind::Data {
            return Err(refuse(ErrorCode::Invalid, "only data may follow").into());
        }
        let is_end = frame.payload.is_empty();
        let piece = if is_end { Piece::End } else { Piece::Data(frame.payload) };
        if pieces.send(piece).await.is_err() || is_end {
            return Ok(());
        }
    }
}

/// Whom what is unpacked belongs to, if somebody said so.
#[derive(Clone, Copy)]
enum Belongs {
    /// As the archive says.
    AsThere,
    /// All of it to one.
    To(Owner),
}

impl Belongs {
    fn find(agent: &Agent, said: &Ownership) -> Result<Self, WireError> {
        Ok(match said {
            Ownership::Archive => Self::AsThere,
            Ownership::One { owner: text } => {
                let (uid, gid) = owner::parse(agent, text)?;
                Self::To((uid.unwrap_or(0), gid.unwrap_or(0)))
            }
        })
    }

    /// Whom an entry belongs to.
    fn of(self, entry: &Entry) -> Owner {
        match self {
            Self::AsThere => entry.owner,
            Self::To(owner) => owner,
        }
    }

    /// Whom a directory belongs to that is only on the way to an entry.
    fn on_the_way(self) -> Owner {
        match self {
            Self::AsThere => (0, 0),
            Self::To(owner) => owner,
        }
    }
}

/// A directory that entries are put into.
struct Parent {
    path: Vec<u8>,
    directory: OwnedFd,
    /// Whom new entries belong to.
    owner: Owner,
}

struct Unpack<'a> {
    agent: &'a Agent,
    belongs: Option<Belongs>,
    top: OwnedFd,
    /// Whether the top was there before.
    was_there: bool,
    parent: Option<Parent>,
    /// Directories whose time is set when nothing is put into them any more.
    times: Vec<(Vec<u8>, Timestamps)>,
}

impl Unpack<'_> {
    fn run(
        agent: &Agent,
        path: &str,
        owner: Option<Ownership>,
        mut archive: Archive,
    ) -> Result<(), Failure> {
        let failed = |errno: Errno| explain("unpack into", path, &errno.into());
        let place = locate(&agent.root, path)?;
        let belongs = owner.map(|owner| Belongs::find(agent, &owner)).transpose()?;
        let was_there = open_directory(&place).is_ok();
        let on_the_way = belongs.map(Belongs::on_the_way);
        let top = open_or_make_for(agent, &place, on_the_way).map_err(failed)?;
        let mut unpack = Unpack { agent, belongs, top, was_there, parent: None, times: Vec::new() };
        while let Some(entry) = archive.next()? {
            unpack.entry(&entry, &mut archive)?;
        }
        archive.finish()?;
        for (path, times) in unpack.times.iter().rev() {
            // What has gone meanwhile needs no time.
            let _ = open_beneath(&unpack.top, path.as_slice(), OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|directory| futimens(directory, times));
        }
        syncfs(&unpack.top).map_err(failed)?;
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive) -> Result<(), Failure> {
        let path = clean(&entry.name)?;
        let shown = String::from_utf8_lossy(&path);
        let failed = |errno: Errno| Failure::from(explain_entry(&shown, errno));
        if path.is_empty() {
            if !entry.kind.is_dir() {
                return Err(invalid(format_args!("{shown:?} names no file")));
            }
            if let Some(belongs) = self.belongs {
                if self.was_there {
                    return Ok(());
                }
                give(&self.top, belongs.of(entry)).map_err(failed)?;
            }
            fchmod(&self.top, Mode::from_raw_mode(entry.mode)).map_err(failed)?;
            self.times.push((b".".to_vec(), stamps(entry)));
            return Ok(());
        }
        let (directory, name) = split(&path);
        self.enter(directory).map_err(failed)?;
        let Some(parent) = &self.parent else { return Err(failed(Errno::NOENT)) };
        let name = OsStr::from_bytes(name);
        let said = self.belongs.map(|belongs| belongs.of(entry));
        let owner = said.unwrap_or(parent.owner);
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => {
                return put_file(parent, name, entry, said, archive, &failed);
            }
            EntryType::Directory => {
                if put_directory(self.agent, parent, name, entry.mode, said).map_err(failed)? {
                    self.times.push((path.clone(), stamps(entry)));
                }
                return Ok(());
            }
            EntryType::Symlink => {
                let to = OsStr::from_bytes(&entry.link);
                put(parent, name, || symlinkat(to, &parent.directory, name)).map_err(failed)?;
                give_at(&parent.directory, name, owner).map_err(failed)?;
            }
            EntryType::Link => {
                let first = clean(&entry.link)?;
                return put_link(&self.top, parent, name, &first, &path).map_err(failed);
            }
            EntryType::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                let make = || mknodat(&parent.directory, name, FileType::Fifo, mode, 0);
                put(parent, name, make).map_err(failed)?;
                give_at(&parent.directory, name, owner).map_err(failed)?;
                change_mode(&parent.directory, name, entry.mode).map_err(failed)?;
            }
            EntryType::Block | EntryType::Char => {
                return Err(invalid(format_args!("{shown} is a device")));
            }
            kind => {
                let kind = char::from(kind.as_byte());
                return Err(invalid(format_args!("{shown} is of the unknown kind {kind:?}")));
            }
        }
        utimensat(&parent.directory, name, &stamps(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)
    }

    /// Makes `path` the directory that entries are put into; what is missing of it is made.
    fn enter(&mut self, path: &[u8]) -> Result<(), Errno> {
        if self.parent.as_ref().is_some_and(|parent| parent.path == path) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let on_the_way = self.belongs.map(Belongs::on_the_way);
        let directory = match open_beneath(&self.top, path, flags) {
            Err(Errno::NOENT) => {
                let mut current = open_beneath(&self.top, c".", flags)?;
                for name in path.split(|byte| *byte == b'/') {
                    let name = OsStr::from_bytes(name);
                    current = match open_beneath(&current, name, flags) {
                        Err(Errno::NOENT) => {
                            make_for(self.agent, &current, name, NEW_DIRECTORY, on_the_way)?;
                            open_beneath(&current, name, flags)?
                        }
                        opened => opened?,
                    };
                }
                current
            }
            opened => opened?,
        };
        let owner = heir(self.agent, &fstat(&directory)?);
        self.parent = Some(Parent { path: path.to_vec(), directory, owner });
        Ok(())
    }
}

/// The path of an entry below the top, empty for that itself.
fn clean(name: &[u8]) -> Result<Vec<u8>, Failure> {
    let shown = || String::from_utf8_lossy(name);
    if name.starts_with(b"/") {
        return Err(invalid(format_args!("{:?} is an absolute path", shown())));
    }
    if name.contains(&0) {
        return Err(invalid(format_args!("{:?} holds a null character", shown())));
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(invalid(format_args!("{:?} leads outside", shown()))),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

fn explain_entry(path: &str, errno: Errno) -> WireError {
    match errno {
        Errno::LOOP => {
            let message = format!("unpack {path}: it leads through a symbolic link");
            refuse(ErrorCode::Invalid, message)
        }
        errno => explain("unpack", path, &errno.into()),
    }
}

fn stamps(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1 };
    Timestamps { last_access: time, last_modification: time }
}

/// Makes something that cannot replace by itself what is there.
fn put(parent: &Parent, name: &OsStr, make: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(&parent.directory, name, AtFlags::empty())?;
            make()
        }
        result => result,
    }
}

/// Says whether the directory is as the archive says now, rather than as it was.
fn put_directory(
    agent: &Agent,
    parent: &Parent,
    name: &OsStr,
    mode: u32,
    said: Option<Owner>,
) -> Result<bool, Errno> {
    match make_for(agent, &parent.directory, name, mode, said) {
        Err(Errno::EXIST) => {}
        result => return result.map(|()| true),
    }
    let there = statat(&parent.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match (FileType::from_raw_mode(there.st_mode).is_dir(), said) {
        (true, Some(_)) => Ok(false),
        (true, None) => change_mode(&parent.directory, name, mode).map(|()| true),
        (false, Some(_)) => Err(Errno::NOTDIR),
        (false, None) => {
            unlinkat(&parent.directory, name, AtFlags::empty())?;
            make_for(agent, &parent.directory, name, mode, None).map(|()| true)
        }
    }
}

fn put_link(
    top: &OwnedFd,
    parent: &Parent,
    name: &OsStr,
    first: &[u8],
    path: &[u8],
) -> Result<(), Errno> {
    if first == path {
        return Ok(());
    }
    let (directory, first) = split(first);
    let directory = open_beneath(top, directory, OFlags::PATH | OFlags::DIRECTORY)?;
    let first = OsStr::from_bytes(first);
    put(parent, name, || linkat(&directory, first, &parent.directory, name, AtFlags::empty()))
}

/// A file that is gone again unless it is finished.
struct Unfinished<'a> {
    parent: &'a Parent,
    name: &'a OsStr,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing more can be done about it.
            let _ = unlinkat(&self.parent.directory, self.name, AtFlags::empty());
        }
    }
}

fn put_file(
    parent: &Parent,
    name: &OsStr,
    entry: &Entry,
    said: Option<Owner>,
    archive: &mut Archive,
    failed: &impl Fn(Errno) -> Failure,
) -> Result<(), Failure> {
    let directory = &parent.directory;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let make = |name: &OsStr| openat(directory, name, flags, Mode::from_raw_mode(0o600));
    let (mut owner, mut fresh) = (said.unwrap_or(parent.owner), None);
    let file = match make(name) {
        Err(Errno::EXIST) => {
            let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            match FileType::from_raw_mode(there.st_mode) {
                FileType::Directory => return Err(failed(Errno::ISDIR)),
                FileType::RegularFile if said.is_none() => owner = (there.st_uid, there.st_gid),
                _ => {}
            }
            let make = |name: &std::ffi::CStr| make(OsStr::from_bytes(name.to_bytes()));
            let (name, file) = with_fresh_name(make).map_err(failed)?;
            fresh = Some(name);
            file
        }
        file => file.map_err(failed)?,
    };
    let made = fresh.as_ref().map_or(name, |fresh| OsStr::from_bytes(fresh.to_bytes()));
    let mut unfinished = Unfinished { parent, name: made, finished: false };
    archive.content(|bytes| write_all(&file, bytes).map_err(failed))?;
    let finish = || {
        give(&file, owner)?;
        // After the owner, whose change takes special bits away.
        fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        futimens(&file, &stamps(entry))?;
        // Whoever watches is not told of a write after it is in place.
        drop(file);
        if fresh.is_some() { renameat(directory, made, directory, name) } else { Ok(()) }
    };
    finish().map_err(failed)?;
    unfinished.finished = true;
    Ok(())
}
