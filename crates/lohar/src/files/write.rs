//! Replacing a file in one step, or adding to it.

use std::ffi::CString;
use std::future::{pending, ready};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileWrite, Response, WireError};
use proto::mux::Stream;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, fstatfs, fsync,
    open, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::at::with_fresh_name;
use super::owner::{self, Owner, Wanted, give, heir, open_or_make};
use super::{Failure, blocking, explain, locate};
use crate::agent::{Agent, refuse};
use crate::sys;

/// Permission bits of a new file.
const NEW_FILE: u32 = 0o644;

/// Bytes that are written in one go by another thread, and gathered meanwhile.
const BATCH: usize = 256 * 1024;

/// Serves one [`FileWrite`]. Whatever may wait for the disk is done elsewhere; all of a small file
/// in one go.
pub(super) async fn write(
    agent: &Arc<Agent>,
    request: FileWrite,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let request = Arc::new(request);
    let mut batch = Batch::default();
    let mut sink = None;
    let mut work: Option<JoinHandle<Result<Option<Sink>, WireError>>> = None;
    loop {
        tokio::select! {
            biased;
            done = join(&mut work) => {
                (work, sink) = (None, done?);
                continue;
            }
            // In this branch `sink` may still be at work.
            filled = batch.fill(stream, request.append) => filled?,
        }
        if work.is_some() {
            sink = join(&mut work).await?;
        }
        let Batch { frames, ended, .. } = std::mem::take(&mut batch);
        let (agent, request, current) = (Arc::clone(agent), Arc::clone(&request), sink.take());
        let step = blocking(move || step(&agent, &request, current, &frames, ended));
        if ended {
            step.await?;
            return Ok(Response::Done);
        }
        work = Some(tokio::spawn(step));
    }
}

/// What comes of the work that is under way, if any is.
async fn join(
    work: &mut Option<JoinHandle<Result<Option<Sink>, WireError>>>,
) -> Result<Option<Sink>, WireError> {
    let Some(handle) = work else { return pending().await };
    let lost = |error| refuse(ErrorCode::Failed, format!("the write was lost: {error}"));
    handle.await.map_err(lost).flatten()
}

/// Frames that have come and are not yet written.
#[derive(Default)]
struct Batch {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    ended: bool,
}

impl Batch {
    /// Takes in frames until there is enough to write; if `eager`, what has come. Safe to abandon.
    async fn fill(&mut self, stream: &mut Stream, eager: bool) -> Result<(), Failure> {
        while !self.ended && self.bytes < BATCH {
            let frame = if eager && self.bytes > 0 {
                tokio::select! {
                    biased;
                    frame = stream.recv() => frame,
                    () = ready(()) => return Ok(()),
                }
            } else {
                stream.recv().await
            };
            let Some(frame) = frame? else { return Err(Failure::Gone) };
            if frame.kind != FrameKind::Data {
                return Err(refuse(ErrorCode::Invalid, "only data may follow").into());
            }
            self.ended = frame.payload.is_empty();
            self.bytes += frame.payload.len();
            if !self.ended {
                self.frames.push(frame.payload);
            }
        }
        Ok(())
    }
}

/// Where the bytes go.
struct Sink {
    file: OwnedFd,
    /// What takes the place of another file in the end; nothing if the file is added to.
    temporary: Option<Temporary>,
}

/// Writes the next bytes of a file, the first and the last if they are.
fn step(
    agent: &Agent,
    request: &FileWrite,
    sink: Option<Sink>,
    frames: &[Vec<u8>],
    ended: bool,
) -> Result<Option<Sink>, WireError> {
    let sink = match sink {
        Some(sink) => sink,
        None => begin(agent, request)?,
    };
    let write = || {
        frames.iter().try_for_each(|frame| write_all(&sink.file, frame))?;
        if !ended {
            return Ok(Some(sink));
        }
        flush(&sink)?;
        // Before it is put in place: whoever watches is not told of a write after that.
        drop(sink.file);
        sink.temporary.map_or(Ok(()), Temporary::place)?;
        Ok(None)
    };
    write().map_err(|errno: Errno| explain("write", &request.path, &errno.into()))
}

/// Brings the content to the disk before the file is put in place, so that no crash leaves a name
/// without it. On the sandbox's own disk, an ext4 with ordered data, what is written out belongs to
/// the same commit of the journal as the name or an earlier one, which the flush of the directory
/// then waits for: one commit instead of two, each of which costs an emulated guest milliseconds.
fn flush(sink: &Sink) -> Result<(), Errno> {
    const OVERLAY: u64 = 0x794c_7630;
    const EXT4: u64 = 0xef53;
    if sink.temporary.is_some() {
        #[expect(clippy::cast_sign_loss, reason = "magic numbers are 32 bits without a sign")]
        let kind = fstatfs(&sink.file)?.f_type as u64;
        if matches!(kind, OVERLAY | EXT4) {
            return sys::write_out(&sink.file);
        }
    }
    fsync(&sink.file)
}

/// Writes all of `bytes`.
pub(super) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn begin(agent: &Agent, request: &FileWrite) -> Result<Sink, WireError> {
    let path = request.path.as_str();
    let failed = |errno: Errno| explain("write", path, &errno.into());
    let place = locate(&agent.root, path)?;
    if path.ends_with('/') {
        let message = format!("{path} names a directory");
        return Err(refuse(ErrorCode::IsDirectory, message));
    }
    let wanted =
        request.owner.as_deref().map_or(Ok((None, None)), |text| owner::parse(agent, text))?;
    if request.append {
        let file = append(agent, request, &place, wanted)?;
        return Ok(Sink { file, temporary: None });
    }
    let (target, existing) = resolve(place).map_err(failed)?;
    let kind = existing.as_ref().map(|meta| FileType::from_raw_mode(meta.st_mode));
    check_kind(path, kind)?;
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(refuse(ErrorCode::Invalid, format!("{path} names no file")));
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| failed(Errno::INVAL))?;
    let directory = open_or_make(agent, parent).map_err(failed)?;
    let begin = || {
        let owner = match &existing {
            Some(meta) => (meta.st_uid, meta.st_gid),
            None => heir(agent, &fstat(&directory)?),
        };
        let old = existing.filter(|_| kind == Some(FileType::RegularFile));
        let mode = request.mode.or(old.map(|meta| meta.st_mode)).unwrap_or(NEW_FILE);
        let (temporary, file) = Temporary::new(directory, name)?;
        settle(&file, owner, wanted, mode)?;
        Ok(Sink { file, temporary: Some(temporary) })
    };
    begin().map_err(failed)
}

fn check_kind(path: &str, kind: Option<FileType>) -> Result<(), WireError> {
    match kind {
        None | Some(FileType::RegularFile | FileType::Symlink) => Ok(()),
        Some(FileType::Directory) => {
            Err(refuse(ErrorCode::IsDirectory, format!("{path} is a directory")))
        }
        Some(_) => Err(refuse(ErrorCode::Invalid, format!("{path} is not a regular file"))),
    }
}

/// Where a file goes and what is there: a link is followed, so that it stays one, unless it leads
/// nowhere.
fn resolve(place: PathBuf) -> Result<(PathBuf, Option<Stat>), Errno> {
    let look = |path: &Path| match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(meta) => Ok(Some(meta)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    };
    let existing = look(&place)?;
    let is_link = |meta: &Stat| FileType::from_raw_mode(meta.st_mode).is_symlink();
    if existing.as_ref().is_some_and(is_link)
        && let Ok(target) = std::fs::canonicalize(&place)
    {
        let existing = look(&target)?;
        return Ok((target, existing));
    }
    Ok((place, existing))
}

/// Gives a new file to `owner`, but for what was asked for, and sets its mode.
fn settle(file: &OwnedFd, owner: Owner, wanted: Wanted, mode: u32) -> Result<(), Errno> {
    let decided = (wanted.0.unwrap_or(owner.0), wanted.1.unwrap_or(owner.1));
    match wanted {
        (None, None) => give(file, decided)?,
        _ => fchown(file, Some(Uid::from_raw(decided.0)), Some(Gid::from_raw(decided.1)))?,
    }
    // After the owner, whose change takes special bits away.
    fchmod(file, Mode::from_raw_mode(mode & 0o7777))
}

/// Opens a file to add to; it is made if missing.
fn append(
    agent: &Agent,
    request: &FileWrite,
    place: &Path,
    wanted: Wanted,
) -> Result<OwnedFd, WireError> {
    let failed = |errno: Errno| explain("append to", &request.path, &errno.into());
    // A pipe that nobody reads must not hold this up.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK;
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    let (file, is_new) = match open(place, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            // Where a link leads is not made up.
            let parent = place.parent().ok_or_else(|| failed(Errno::NOENT))?;
            open_or_make(agent, parent).map_err(failed)?;
            (open(place, flags | OFlags::CREATE, Mode::from_raw_mode(0o600)).map_err(failed)?, true)
        }
        result => (result.map_err(failed)?, false),
    };
    let meta = fstat(&file).map_err(failed)?;
    check_kind(&request.path, Some(FileType::from_raw_mode(meta.st_mode)))?;
    let change = || {
        let owner = match place.parent() {
            Some(parent) if is_new => heir(agent, &statat(CWD, parent, AtFlags::empty())?),
            _ => (meta.st_uid, meta.st_gid),
        };
        let asked = request.mode.is_some() || request.owner.is_some();
        if is_new || asked {
            let old = if is_new { NEW_FILE } else { meta.st_mode };
            settle(&file, owner, wanted, request.mode.unwrap_or(old))?;
        }
        Ok(file)
    };
    change().map_err(failed)
}

/// A file that is gone again unless it is put in place.
struct Temporary {
    directory: OwnedFd,
    name: CString,
    target: CString,
    placed: bool,
}

impl Temporary {
    fn new(directory: OwnedFd, target: CString) -> Result<(Self, OwnedFd), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let (name, file) = with_fresh_name(|name| openat(&directory, name, flags, mode))?;
        Ok((Self { directory, name, target, placed: false }, file))
    }

    fn place(mut self) -> Result<(), Errno> {
        renameat(&self.directory, &self.name, &self.directory, &self.target)?;
        self.placed = true;
        fsync(&self.directory)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing more can be done about it.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}
