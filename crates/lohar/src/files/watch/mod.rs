//! Telling of changes.
//!
//! The kernel's events are read in batches. A batch that ends in the middle of something, a rename
//! or a write, waits a moment for the rest, so that the host hears of one thing once.

mod tracker;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::message::{Change, ErrorCode, Response, WireError};
use proto::mux::Stream;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use self::tracker::Tracker;
use super::{explain, locate};
use crate::agent::{Agent, refuse};
use crate::sys;

/// Directories that one watch may cover.
pub(super) const DIRECTORIES_MAX: usize = 65_536;

/// How long the other half of a rename, or the end of a write, is waited for.
const SETTLE: Duration = Duration::from_millis(20);

/// Bytes of paths in one frame; each may take six as JSON.
const FRAME_BYTES: usize = 100 * 1024;

/// Why a watch ends by itself.
pub(super) enum End {
    /// The watched path is gone.
    Gone,
    /// There are more directories than can be watched.
    Limit,
    /// Something unexpected.
    Failed(Errno),
}

impl From<Errno> for End {
    fn from(errno: Errno) -> Self {
        match errno {
            // The kernel's own limit.
            Errno::NOSPC => Self::Limit,
            errno => Self::Failed(errno),
        }
    }
}

impl End {
    fn explain(self, path: &str) -> WireError {
        match self {
            Self::Gone => refuse(ErrorCode::NotFound, format!("{path} is gone")),
            Self::Limit => {
                let message = format!("there are too many directories below {path} to watch");
                refuse(ErrorCode::Limit, message)
            }
            Self::Failed(errno) => explain("watch", path, &errno.into()),
        }
    }
}

/// Serves one `Watch`; what is left to say is why it ended, unless the host has left.
pub(super) async fn watch(
    agent: &Agent,
    path: &str,
    recursive: bool,
    stream: &mut Stream,
) -> Result<Response, super::Failure> {
    let ended = |end: End| end.explain(path);
    let place = locate(&agent.root, path)?;
    let told = path.trim_end_matches('/').to_owned();
    let arm = move || Tracker::arm(place, told, recursive);
    let (inotify, mut tracker) = on_disk(arm).await.map_err(ended)?;
    let inotify =
        sys::watch(inotify, Interest::READABLE).map_err(|error| explain("watch", path, &error))?;
    let inotify = Arc::new(inotify);
    stream.send_json(&Response::Done).await?;
    loop {
        let (changes, end);
        tokio::select! {
            biased;
            () = stream.closed() => return Err(super::Failure::Gone),
            ready = readable(&inotify) => ready.map_err(ended)?,
        }
        (tracker, changes, end) = gather(tracker, &inotify).await.map_err(ended)?;
        for changes in frames(changes) {
            stream.send_json(&Response::Changed { changes }).await?;
        }
        if let Some(end) = end {
            return Err(end.explain(path).into());
        }
    }
}

async fn readable(inotify: &AsyncFd<OwnedFd>) -> Result<(), End> {
    // Not cleared here: only who finds nothing to read knows that there is nothing.
    inotify.readable().await.map(|_ready| ()).map_err(|_| End::Failed(Errno::IO))
}

/// Everything that has happened, once nothing is half told or a moment has gone by.
async fn gather(
    mut tracker: Tracker,
    inotify: &Arc<AsyncFd<OwnedFd>>,
) -> Result<(Tracker, Vec<Change>, Option<End>), End> {
    let deadline = Instant::now() + SETTLE;
    let mut end = None;
    loop {
        let Ok(ready) = timeout_at(deadline, inotify.readable()).await else { break };
        let mut ready = ready.map_err(|_| End::Failed(Errno::IO))?;
        let looks_at_disk = match tracker.read(inotify.get_ref()) {
            Ok(looks_at_disk) => looks_at_disk,
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                if tracker.is_settled() {
                    break;
                }
                continue;
            }
            Err(errno) => return Err(errno.into()),
        };
        drop(ready);
        let digested = if looks_at_disk {
            let (mut moved, inotify) = (tracker, Arc::clone(inotify));
            let digest = move || {
                let digested = moved.digest(inotify.get_ref());
                Ok((moved, digested))
            };
            let digested;
            (tracker, digested) = on_disk(digest).await?;
            digested
        } else {
            tracker.digest(inotify.get_ref())
        };
        end = digested.err();
        if end.is_some() || tracker.is_full() || Instant::now() >= deadline {
            break;
        }
    }
    let changes = tracker.take(inotify.get_ref());
    let end = end.or_else(|| tracker.is_gone().then_some(End::Gone));
    Ok((tracker, changes, end))
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, End> + Send + 'static,
) -> Result<T, End> {
    spawn_blocking(work).await.map_err(|_| End::Failed(Errno::IO)).flatten()
}

/// The changes in portions that fit into frames.
fn frames(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut frames: Vec<Vec<Change>> = Vec::new();
    let mut room = 0;
    for change in changes {
        let bytes = change.path.len() + change.to.as_ref().map_or(0, String::len) + 32;
        match frames.last_mut() {
            Some(frame) if bytes <= room => frame.push(change),
            _ => {
                frames.push(vec![change]);
                room = FRAME_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    frames
}
