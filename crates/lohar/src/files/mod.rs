//! Files of the guest, for the host; all as root.
//!
//! What can wait for the disk is done by the runtime's few threads for that, in short steps. What
//! goes through a whole tree takes a turn first, and an archive, whose other end may never read
//! or write again, has a thread of its own: so nobody keeps the others from small files.

mod archive;
mod at;
mod copy;
mod list;
mod owner;
mod pack;
mod read;
mod remove;
mod stat;
#[cfg(test)]
mod tests;
mod transfer;
mod unpack;
mod watch;
mod write;

use pack::Source;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::message::{ErrorCode, Request, Response, WireError};
use proto::mux::{MuxError, Stream};
use rustix::io::Errno;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use crate::agent::{ARCHIVES_MAX, Agent, FILE_OPERATIONS_MAX, WATCHES_MAX, refuse};

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
    agent: &Arc<Agent>,
    request: Request,
    mut stream: Stream,
) -> Option<(Stream, Response)> {
    let result = match admit(agent, &request) {
        Err(error) => Err(error.into()),
        Ok(_permit) => perform(agent, request, &mut stream).await,
    };
    match result {
        Ok(response) => Some((stream, response)),
        Err(Failure::Refused(error)) => Some((stream, Response::Error(error))),
        Err(Failure::Gone) => None,
    }
}

/// A place among those that do the same, so that one kind cannot keep another out.
fn admit<'a>(agent: &'a Agent, request: &Request) -> Result<SemaphorePermit<'a>, WireError> {
    let (places, most, what): (&Semaphore, _, _) = match request {
        Request::Watch { .. } => (&agent.watches, WATCHES_MAX, "watches"),
        Request::Pack { .. } | Request::PackLayer { .. } | Request::Unpack { .. } => {
            (&agent.archives, ARCHIVES_MAX, "archives")
        }
        _ => (&agent.file_operations, FILE_OPERATIONS_MAX, "file operations"),
    };
    let refused = |_| refuse(ErrorCode::Limit, format!("{most} {what} are under way already"));
    places.try_acquire().map_err(refused)
}

async fn perform(
    agent: &Arc<Agent>,
    request: Request,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    match request {
        Request::FileRead(request) => read::read(agent, &request, stream).await,
        Request::FileWrite(request) => write::write(agent, request, stream).await,
        Request::FileStat { path, no_follow } => {
            stat::stat(agent, &path, no_follow).map_err(Failure::from)
        }
        Request::FileList(request) => list::list(agent, request, stream).await,
        Request::MakeDirectory { path, mode, parents } => {
            let agent = Arc::clone(agent);
            blocking(move || owner::make_directory(&agent, &path, mode, parents)).await?;
            Ok(Response::Done)
        }
        Request::FileMove { from, to, replace } => {
            let root = agent.root.clone();
            let (source, target) = (from.clone(), to.clone());
            let near = move || transfer::rename(&root, &source, &target, replace);
            if !blocking(near).await? {
                let root = agent.root.clone();
                whole_tree(agent, move || transfer::across(&root, &from, &to, replace)).await?;
            }
            Ok(Response::Done)
        }
        Request::FileRemove { path, recursive } => {
            let root = agent.root.clone();
            let work = move || remove::remove(&root, &path, recursive);
            if recursive {
                whole_tree(agent, work).await?;
            } else {
                blocking(work).await?;
            }
            Ok(Response::Done)
        }
        Request::Watch { path, recursive } => watch::watch(agent, &path, recursive, stream).await,
        Request::Pack { path } => pack::pack(agent, Source::Tree(path), stream).await,
        Request::PackLayer { disk } => {
            let open = agent.parts;
            let part = blocking(move || {
                open(disk).map_err(|error| {
                    refuse(ErrorCode::Failed, format!("open a disk of the image: {error}"))
                })
            });
            pack::pack(agent, Source::Layer(part.await?), stream).await
        }
        Request::Unpack { path, owner } => unpack::unpack(agent, path, owner, stream).await,
        _ => Err(Failure::Refused(refuse(ErrorCode::Unsupported, "not about files"))),
    }
}

/// Does what may wait for the disk without keeping the others waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    let lost = |error| refuse(ErrorCode::Failed, format!("the operation was lost: {error}"));
    spawn_blocking(work).await.map_err(lost).flatten()
}

/// As [`blocking`], for what may take long.
async fn whole_tree<T: Send + 'static>(
    agent: &Agent,
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    // The semaphore is never closed.
    let _turn = agent.tree_operations.acquire().await;
    blocking(work).await
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

/// What the host is told about a failure.
fn explain(action: &str, path: &str, error: &io::Error) -> WireError {
    let code = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => ErrorCode::NotFound,
        Some(Errno::ISDIR) => ErrorCode::IsDirectory,
        Some(Errno::NOTDIR) => ErrorCode::NotDirectory,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorCode::Permission,
        Some(Errno::EXIST) => ErrorCode::Exists,
        Some(Errno::NOTEMPTY) => ErrorCode::NotEmpty,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorCode::NoSpace,
        Some(Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL | Errno::NXIO) => ErrorCode::Invalid,
        Some(Errno::MFILE | Errno::NFILE) => ErrorCode::Limit,
        Some(Errno::BUSY) => {
            let message = format!("{action} {path}: it is in use or a mount point; unmount it");
            return refuse(ErrorCode::Permission, message);
        }
        Some(Errno::TXTBSY) => {
            let message = format!("{action} {path}: it is a program that runs; stop it first");
            return refuse(ErrorCode::Permission, message);
        }
        _ if error.kind() == io::ErrorKind::InvalidData => ErrorCode::Invalid,
        _ => ErrorCode::Failed,
    };
    refuse(code, format!("{action} {path}: {error}"))
}

/// Starts a thread for work that waits for the host in between, and so must not take one of the
/// few that everybody shares.
fn on_own_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), WireError> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    let lost = |error| refuse(ErrorCode::Limit, format!("{name}: no thread can be had: {error}"));
    started.map(drop).map_err(lost)
}
