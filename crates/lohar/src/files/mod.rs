//! Files of the guest, for the host; all as root.

mod list;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::message::{ErrorCode, FileKind, FileStat, Request, Response, WireError};
use proto::mux::{MuxError, Stream};
use rustix::io::Errno;

use crate::agent::{Agent, FILE_OPERATIONS_MAX, refuse};

/// Why an operation ended early.
enum Failure {
    /// The host is to be told.
    Refused(WireError),
    /// There is nobody to tell.
    Gone,
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Refused(error)
    }
}

impl From<MuxError> for Failure {
    fn from(_: MuxError) -> Self {
        Self::Gone
    }
}

/// Serves one file request; answers what is left to say.
pub(crate) async fn serve(
    agent: &Agent,
    request: Request,
    mut stream: Stream,
) -> Option<(Stream, Response)> {
    let Ok(_permit) = agent.file_operations.try_acquire() else {
        let message = format!("{FILE_OPERATIONS_MAX} file operations are under way already");
        return Some((stream, Response::Error(refuse(ErrorCode::Limit, message))));
    };
    let result = match request {
        Request::FileRead(request) => read::read(agent, &request, &mut stream).await,
        Request::FileWrite(request) => write::write(agent, &request, &mut stream).await,
        Request::FileStat { path, .. } => stat(agent, &path).map_err(Failure::from),
        Request::FileList(request) => list::list(agent, &request.path, &mut stream).await,
        _ => Err(Failure::Refused(refuse(ErrorCode::Unsupported, "not about files"))),
    };
    match result {
        Ok(response) => Some((stream, response)),
        Err(Failure::Refused(error)) => Some((stream, Response::Error(error))),
        Err(Failure::Gone) => None,
    }
}

fn stat(agent: &Agent, path: &str) -> Result<Response, WireError> {
    let place = locate(&agent.root, path)?;
    let meta = std::fs::metadata(&place).map_err(|error| explain("stat", path, &error))?;
    Ok(Response::Stat(facts(&meta)))
}

/// Where the absolute `path` of the guest is.
fn locate(root: &Path, path: &str) -> Result<PathBuf, WireError> {
    if !path.starts_with('/') {
        return Err(refuse(ErrorCode::Invalid, format!("{path:?} is not an absolute path")));
    }
    if path.contains('\0') {
        return Err(refuse(ErrorCode::Invalid, "paths cannot hold a null character"));
    }
    Ok(root.join(path.trim_start_matches('/')))
}

fn facts(meta: &Metadata) -> FileStat {
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileStat {
        size: meta.size(),
        mode: meta.mode() & 0o7777,
        kind,
        mtime: meta.mtime(),
        uid: meta.uid(),
        gid: meta.gid(),
        target: None,
    }
}

/// What the host is told about a failure.
fn explain(action: &str, path: &str, error: &io::Error) -> WireError {
    let code = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => ErrorCode::NotFound,
        Some(Errno::ISDIR) => ErrorCode::IsDirectory,
        Some(Errno::NOTDIR) => ErrorCode::NotDirectory,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorCode::Permission,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorCode::NoSpace,
        Some(Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL) => ErrorCode::Invalid,
        Some(Errno::MFILE | Errno::NFILE) => ErrorCode::Limit,
        _ => ErrorCode::Failed,
    };
    refuse(code, format!("{action} {path}: {error}"))
}
