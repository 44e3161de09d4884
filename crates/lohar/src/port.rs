//! The virtio port that leads to the host.
//!
//! While nobody is connected on the host's side, the port reports a hang-up all the time. To wait
//! for the end of that it is watched edge-triggered through an epoll descriptor of its own. A
//! session then uses the port directly; a hang-up that happened meanwhile, even one that is over,
//! ends it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
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

/// Waits until the host is connected to the port.
///
/// # Errors
/// The kernel refuses to watch it.
pub(crate) async fn connected(port: &OwnedFd) -> io::Result<()> {
    let watch = epoll::create(CreateFlags::CLOEXEC)?;
    let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
    epoll::add(&watch, port, EventData::new_u64(0), events)?;
    let watch = sys::watch(watch, Interest::READABLE)?;
    loop {
        let mut ready = watch.readable().await?;
        let mut event = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(watch.get_ref(), &mut event, Some(&now)) {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let [Event { flags, .. }] = event;
        if count == 1 && !flags.contains(EventFlags::HUP) {
            return Ok(());
        }
        // Taking the event has re-armed it.
        ready.clear_ready();
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
