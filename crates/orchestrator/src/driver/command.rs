//! What a driver is asked to do, and how it begins.

use std::path::PathBuf;

use tokio::sync::oneshot;

use super::{Copied, CopyOrder, Destroyed, Entry, Seed};
use crate::{
    Result,
    contents::Contents,
    facade::Progress,
    model::{Caller, Edit, StartFrom},
};

/// What a driver is asked to do. A reply that nobody waits for any more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make it hot if it is not and let an operation in.
    Wake { caller: Caller, reply: oneshot::Sender<Result<Entry>> },
    /// Let an operation in if it is hot.
    Look(oneshot::Sender<Result<Option<Entry>>>),
    /// Start it as its owner asks.
    Start { from: Option<StartFrom>, progress: Progress, reply: oneshot::Sender<Result<StartFrom>> },
    /// Put it on disk.
    Stop(oneshot::Sender<Result<()>>),
    /// Stop its vCPUs.
    Pause(oneshot::Sender<Result<()>>),
    /// Let its vCPUs run.
    Resume(oneshot::Sender<Result<()>>),
    /// Change what its owner may change.
    Edit { edit: Edit, reply: oneshot::Sender<Result<()>> },
    /// Make directories that share its disk, and copy its memory.
    Copy { order: CopyOrder, reply: oneshot::Sender<Result<Copied>> },
    /// Make a directory that shares one of its volumes.
    CopyVolume { slot: u32, into: PathBuf, reply: oneshot::Sender<Result<()>> },
    /// Make one of its volumes this large, in bytes, while the guest uses it.
    GrowVolume { slot: u32, bytes: u64, reply: oneshot::Sender<Result<()>> },
    /// Go to disk before its time if nothing is under way.
    MakeRoom(oneshot::Sender<Result<bool>>),
    /// Remove it.
    Destroy(oneshot::Sender<Result<Destroyed>>),
    /// Let go of it; the VM runs on.
    Release(oneshot::Sender<()>),
}

/// How a driver begins.
#[derive(Debug)]
pub(crate) enum Begin {
    /// Make the sandbox and tell the caller.
    Create { contents: Contents, progress: Progress, reply: oneshot::Sender<Result<()>> },
    /// Let it go on as a copy of another and tell the caller.
    Copy { seed: Seed, progress: Progress, reply: oneshot::Sender<Result<()>> },
    /// Take it up as the store has it.
    Recover,
}
