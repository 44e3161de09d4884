//! Descriptors that the event loop watches.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Has the event loop watch a descriptor.
///
/// # Errors
/// It has no room for more, or cannot watch this one.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `OwnedFd` moves into the `AsyncFd` and is neither closed nor given away before it
    // is deregistered on drop.
    #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor's lifetime")]
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(Into::into)
}
