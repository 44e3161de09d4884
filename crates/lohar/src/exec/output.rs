//! The reading end of a command's output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use proto::frame::{DATA_CHUNK, FrameKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// One pipe. It is watched by the event loop only from when the command turns out not to be over
/// at once.
pub(crate) enum Output {
    /// Not watched yet.
    Idle(OwnedFd),
    Watched(AsyncFd<OwnedFd>),
    /// Every writer has closed it.
    Ended,
}

/// Both outputs of a command.
pub(crate) struct Outputs {
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    buffer: Vec<u8>,
    /// What the buffer holds, if nobody has got it yet.
    untold: Option<FrameKind>,
}

impl Output {
    fn fd(&self) -> Option<&OwnedFd> {
        match self {
            Self::Idle(fd) => Some(fd),
            Self::Watched(fd) => Some(fd.get_ref()),
            Self::Ended => None,
        }
    }

    fn watch(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Idle(fd) => {
                // Only our end: the command shall find an ordinary pipe.
                rustix::io::ioctl_fionbio(&fd, true)?;
                Self::Watched(sys::watch(fd, Interest::READABLE)?)
            }
            other => other,
        };
        Ok(())
    }

    /// Reads what is there into `buffer`, waiting for something; `false` at the end.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> bool {
        loop {
            let Self::Watched(fd) = self else { return std::future::pending().await };
            let Ok(mut ready) = fd.readable().await else {
                *self = Self::Ended;
                return false;
            };
            match read_into(fd.get_ref(), buffer) {
                Ok(0) => {
                    *self = Self::Ended;
                    return false;
                }
                Ok(count) => {
                    if count < DATA_CHUNK {
                        // A short read has emptied the pipe; more is a new event.
                        ready.clear_ready();
                    }
                    return true;
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => {
                    *self = Self::Ended;
                    return false;
                }
            }
        }
    }
}

fn read_into(fd: &OwnedFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    buffer.clear();
    buffer.reserve(DATA_CHUNK);
    rustix::io::read(fd, rustix::buffer::spare_capacity(buffer))
}

impl Outputs {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let (stdout, stderr) = (Output::Idle(stdout), Output::Idle(stderr));
        Self { stdout, stderr, buffer: Vec::new(), untold: None }
    }

    /// Lets the event loop watch both.
    ///
    /// # Errors
    /// It cannot take more descriptors.
    pub(crate) fn watch(&mut self) -> io::Result<()> {
        self.stdout.watch()?;
        self.stderr.watch()
    }

    /// Waits for the next piece of either; forever once both have ended. Safe to abandon.
    pub(crate) async fn next(&mut self) -> (FrameKind, &[u8]) {
        // Each waits in a buffer of its own only for as long as it takes to fill it.
        let (mut stdout, mut stderr) = (std::mem::take(&mut self.buffer), Vec::new());
        loop {
            let kind = tokio::select! {
                more = self.stdout.read(&mut stdout) => more.then_some(FrameKind::Stdout),
                more = self.stderr.read(&mut stderr) => more.then_some(FrameKind::Stderr),
            };
            let Some(kind) = kind else { continue };
            self.buffer = if kind == FrameKind::Stdout { stdout } else { stderr };
            self.untold = Some(kind);
            return (kind, &self.buffer);
        }
    }

    /// Notes that the last piece of [`Outputs::next`] has been taken over.
    pub(crate) fn told(&mut self) {
        self.untold = None;
    }

    /// The last piece, if it has not been taken over.
    pub(crate) fn take_untold(&mut self) -> Option<(FrameKind, Vec<u8>)> {
        self.untold.take().map(|kind| (kind, std::mem::take(&mut self.buffer)))
    }

    /// What is in the pipes now. Pieces come as they are read; later output is left.
    pub(crate) fn drain(&mut self) -> Vec<(FrameKind, Vec<u8>)> {
        let mut pieces = Vec::new();
        let fds = [self.stdout.fd(), self.stderr.fd()];
        let polled = fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = polled.collect();
        // If it fails, nothing is ready and nothing is taken.
        let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let mut states = polled.iter().map(PollFd::revents);
        let [stdout_state, stderr_state] =
            fds.map(|fd| fd.and_then(|_| states.next()).unwrap_or(PollFlags::empty()));
        for (output, state, kind) in [
            (&mut self.stdout, stdout_state, FrameKind::Stdout),
            (&mut self.stderr, stderr_state, FrameKind::Stderr),
        ] {
            if state.contains(PollFlags::IN)
                && let Some(fd) = output.fd()
            {
                take_present(fd, kind, &mut pieces);
            }
            if state.contains(PollFlags::HUP) {
                *output = Output::Ended;
            }
        }
        pieces
    }

    /// Whether some process still holds a writing end.
    pub(crate) fn is_open(&self) -> bool {
        self.stdout.fd().is_some() || self.stderr.fd().is_some()
    }

    /// Reads until both have ended, so that whoever writes does not block.
    pub(crate) async fn discard(&mut self) {
        if self.watch().is_err() {
            return;
        }
        while self.is_open() {
            tokio::task::coop::consume_budget().await;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            tokio::select! {
                _ = self.stdout.read(&mut stdout) => {}
                _ = self.stderr.read(&mut stderr) => {}
            }
        }
    }
}

/// Reads as many bytes as are in the pipe at the start.
fn take_present(fd: &OwnedFd, kind: FrameKind, pieces: &mut Vec<(FrameKind, Vec<u8>)>) {
    let present = rustix::io::ioctl_fionread(fd.as_fd()).unwrap_or(0);
    let mut left = usize::try_from(present).unwrap_or(0);
    while left > 0 {
        let mut piece = Vec::with_capacity(left.min(DATA_CHUNK));
        match rustix::io::read(fd, rustix::buffer::spare_capacity(&mut piece)) {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count),
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        pieces.push((kind, piece));
    }
}
