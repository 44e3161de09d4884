//! Replacing a file in one step.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileWrite, Response};
use proto::mux::Stream;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Failure, explain, locate};
use crate::agent::{Agent, refuse};
use crate::users::DEFAULT_UID;

/// Permission bits of a new file and of a new directory.
const NEW_FILE: u32 = 0o644;
const NEW_DIRECTORY: u32 = 0o755;

/// User and group that something belongs to.
type Owner = (u32, u32);

/// A file that is gone again unless it is put in place.
struct Temporary {
    path: PathBuf,
    file: File,
    placed: bool,
}

/// Serves one [`FileWrite`].
pub(super) async fn write(
    agent: &Agent,
    request: &FileWrite,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let path = request.path.as_str();
    let mut temporary = begin(agent, request).map_err(|error| match error {
        Begin::Io(error) => Failure::from(explain("write", path, &error)),
        Begin::Refused(failure) => failure,
    })?;
    loop {
        let Some(frame) = stream.recv().await? else { return Err(Failure::Gone) };
        if frame.kind != FrameKind::Data {
            return Err(refuse(ErrorCode::Invalid, "only data may follow").into());
        }
        if frame.payload.is_empty() {
            break;
        }
        let written = temporary.file.write_all(&frame.payload);
        written.map_err(|error| explain("write", path, &error))?;
    }
    let target = target(agent, path)?;
    // Waiting for the disk must not keep the others waiting.
    let placed = tokio::task::spawn_blocking(move || temporary.place(&target)).await;
    let placed = placed.map_err(io::Error::other).flatten();
    placed.map_err(|error| explain("write", path, &error))?;
    Ok(Response::Done)
}

enum Begin {
    Io(io::Error),
    Refused(Failure),
}

impl From<io::Error> for Begin {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for Begin {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Where the file goes: a link is followed, so that it stays one.
fn target(agent: &Agent, path: &str) -> Result<PathBuf, Failure> {
    let place = locate(&agent.root, path)?;
    let is_link = fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_symlink());
    let followed = is_link.then(|| fs::canonicalize(&place).ok()).flatten();
    Ok(followed.unwrap_or(place))
}

fn begin(agent: &Agent, request: &FileWrite) -> Result<Temporary, Begin> {
    let path = request.path.as_str();
    let target = target(agent, path)?;
    let existing = fs::symlink_metadata(&target).ok();
    if existing.as_ref().is_some_and(Metadata::is_dir) {
        let error = refuse(ErrorCode::IsDirectory, format!("{path} is a directory"));
        return Err(Begin::Refused(error.into()));
    }
    let (Some(parent), Some(_)) = (target.parent(), target.file_name()) else {
        let error = refuse(ErrorCode::Invalid, format!("{path} names no file"));
        return Err(Begin::Refused(error.into()));
    };
    let default = agent
        .users
        .find(None)
        .map_or((DEFAULT_UID, DEFAULT_UID), |user| (user.uid.as_raw(), user.gid.as_raw()));
    make_directories(parent, default)?;
    let owner = match &existing {
        Some(meta) => (meta.uid(), meta.gid()),
        None => heir(&fs::metadata(parent)?, default),
    };
    let old_mode = existing.filter(Metadata::is_file).map(|meta| meta.mode());
    let mode = request.mode.or(old_mode).unwrap_or(NEW_FILE) & 0o7777;
    let temporary = Temporary::new(parent)?;
    if rustix::process::geteuid().is_root() {
        fchown(&temporary.file, Some(owner.0), Some(owner.1))?;
    }
    // After the owner, whose change takes special bits away.
    temporary.file.set_permissions(Permissions::from_mode(mode))?;
    Ok(temporary)
}

/// Whom something new in `directory` belongs to: the directory's owner, but in one that everybody
/// may write to, the user that commands run as.
fn heir(directory: &Metadata, default: Owner) -> Owner {
    if directory.mode() & 0o002 == 0 { (directory.uid(), directory.gid()) } else { default }
}

/// Makes what is missing of `path`; leaves alone what is there.
fn make_directories(path: &Path, default: Owner) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::from(rustix::io::Errno::NOTDIR)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let Some(parent) = path.parent() else { return Ok(()) };
    make_directories(parent, default)?;
    let owner = heir(&fs::metadata(parent)?, default);
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        result => result?,
    }
    fs::set_permissions(path, Permissions::from_mode(NEW_DIRECTORY))?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

impl Temporary {
    fn new(directory: &Path) -> io::Result<Self> {
        let mut name = [0; 8];
        getrandom(&mut name, GetRandomFlags::INSECURE)?;
        let path = directory.join(format!(".lohar-{}", hex::encode(name)));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, placed: false })
    }

    fn place(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.placed = true;
        match target.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing more can be done about it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
