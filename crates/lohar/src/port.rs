//! The virtio ports that lead to the host.
//!
//! While nobody is connected on the host's side, a port reports a hang-up all the time. To wait
//! for the end of that it is watched edge-triggered through an epoll descriptor of its own. A
//! session then uses the port directly; a hang-up that happened meanwhile, even one that is over,
//! ends it.
//!
//! In a copy of a running guest the host's side of both ports may be another than it was, and the
//! kernel learns of that only when it runs. Until then what is written to a port goes nowhere, and
//! if the kernel learns of an end and a new beginning together, nobody here sees the end. So what
//! has to arrive is said again when the host connects, and whenever it asks.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::sys;

/// Opens the port at `path`; the host sees that the agent is there.
///
/// # Errors
/// It is missing or already open.
pub(crate) fn open_port(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    open(path, flags, Mode::empty()).map_err(Into::into)
}

/// Says when something about a port has changed.
#[derive(Debug)]
struct Changes {
    epoll: AsyncFd<OwnedFd>,
}

impl Changes {
    fn of(port: &OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&epoll, port, EventData::new_u64(0), events)?;
        Ok(Self { epoll: sys::watch(epoll, Interest::READABLE)? })
    }

    /// Waits for the next change; answers the state then.
    async fn next(&self) -> io::Result<EventFlags> {
        loop {
            let mut ready = self.epoll.readable().await?;
            let mut event = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let count = match epoll::wait(self.epoll.get_ref(), &mut event, Some(&now)) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Taking the event has re-armed it.
            ready.clear_ready();
            let [Event { flags, .. }] = event;
            if count == 1 {
                return Ok(flags);
            }
        }
    }
}

/// Waits until the host is connected to the port.
///
/// # Errors
/// The kernel refuses to watch it.
pub(crate) async fn connected(port: &OwnedFd) -> io::Result<()> {
    let changes = Changes::of(port)?;
    while changes.next().await?.contains(EventFlags::HUP) {}
    Ok(())
}

/// The port on which the host is told that the agent waits for it to call.
#[derive(Debug)]
pub(crate) struct Notice {
    port: OwnedFd,
    changes: Changes,
}

/// What the host is told: the agent waits.
const WAITS: &[u8] = b"w";

impl Notice {
    /// # Errors
    /// The event loop cannot watch the port.
    pub(crate) fn new(port: OwnedFd) -> io::Result<Self> {
        Ok(Self { changes: Changes::of(&port)?, port })
    }

    /// Says that the agent waits: now, whenever the host connects to this port, and whenever it
    /// writes something there.
    ///
    /// # Errors
    /// The port cannot be watched any more.
    pub(crate) async fn tell(&self) -> io::Result<Infallible> {
        let mut told = false;
        loop {
            told = self.turn(told)?;
            self.changes.next().await?;
        }
    }

    /// Says it if that is to be done; whether the host has been told.
    fn turn(&self, told: bool) -> io::Result<bool> {
        let mut state = [PollFd::new(&self.port, PollFlags::IN | PollFlags::OUT)];
        retry_on_intr(|| poll(&mut state, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
        let state = state[0].revents();
        if state.contains(PollFlags::HUP) {
            // Who does not listen does not want to know yet.
            return Ok(false);
        }
        let asked = state.contains(PollFlags::IN) && self.take_questions();
        if told && !asked {
            return Ok(true);
        }
        // If it fails the port has no room or nobody listens any more: that is the next change.
        Ok(rustix::io::write(&self.port, WAITS).is_ok())
    }

    /// Reads what there is; whether there was anything.
    fn take_questions(&self) -> bool {
        let (mut any, mut bytes) = (false, [0; 64]);
        while rustix::io::read(&self.port, &mut bytes).is_ok_and(|count| count > 0) {
            any = true;
        }
        any
    }
}

/// A connected port as a byte stream; ends when the host leaves.
#[derive(Debug)]
pub(crate) struct PortStream {
    port: AsyncFd<OwnedFd>,
}

impl PortStream {
    /// # Errors
    /// The event loop cannot watch the port.
    pub(crate) fn new(port: OwnedFd) -> io::Result<Self> {
        Ok(Self { port: sys::watch(port, Interest::READABLE | Interest::WRITABLE)? })
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.port.poll_read_ready(cx))?;
            match rustix::io::read(self.port.get_ref(), target.initialize_unfilled()) {
                Ok(count) => {
                    target.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The host has left and another has come: this session is over all the same.
                Err(Errno::AGAIN) if ready.ready().is_read_closed() => return Poll::Ready(Ok(())),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.port.poll_write_ready(cx))?;
            match rustix::io::write(self.port.get_ref(), bytes) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) if ready.ready().is_write_closed() => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
