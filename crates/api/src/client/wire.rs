//! The bytes of a connection.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, Shutdown};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Calls the same method of either kind.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Unix($inner) => $call,
            Stream::Tcp($inner) => $call,
        }
    };
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}

impl Stream {
    /// Whether the peer is there and has said nothing, as it must be between two requests.
    pub(super) fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(self, &mut [0_u8], flags) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, stream => stream.poll_write_ready(cx)))?;
            match write() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

/// What of a connection its owner looks at while the connection itself is in use.
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent: AtomicU64,
}

impl Counters {
    /// How many bytes the system has taken to be sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// A socket in use.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Arc<Stream>,
    counters: Arc<Counters>,
    /// A peer may answer and stop to read before it was told everything, and that answer has to be
    /// read. So what it does not read counts as sent; a peer that is gone is noticed by reading.
    answers_early: bool,
    deaf: AtomicBool,
}

impl Wire {
    /// For requests and answers.
    pub(super) fn http(stream: Arc<Stream>, counters: Arc<Counters>) -> Self {
        Self { stream, counters, answers_early: true, deaf: AtomicBool::new(false) }
    }

    /// For a connection that becomes something else than HTTP.
    pub(super) fn plain(stream: Stream) -> Self {
        Self { answers_early: false, ..Self::http(Arc::new(stream), Arc::default()) }
    }

    fn wrote(&self, outcome: io::Result<usize>, length: usize) -> io::Result<usize> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match outcome {
            Ok(written) => {
                let more = u64::try_from(written).unwrap_or(u64::MAX);
                self.counters.sent.fetch_add(more, Ordering::Relaxed);
                Ok(written)
            }
            Err(error)
                if self.answers_early && matches!(error.kind(), BrokenPipe | ConnectionReset) =>
            {
                self.deaf.store(true, Ordering::Relaxed);
                Ok(length)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(either!(&*self.stream, stream => stream.poll_read_ready(cx)))?;
            match either!(&*self.stream, stream => stream.try_read_buf(buffer)) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let write = || either!(&*self.stream, stream => stream.try_write(bytes));
        let outcome = ready!(self.stream.poll_write(cx, write));
        Poll::Ready(self.wrote(outcome, bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        if self.deaf.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(length));
        }
        let write = || either!(&*self.stream, stream => stream.try_write_vectored(parts));
        let outcome = ready!(self.stream.poll_write(cx, write));
        Poll::Ready(self.wrote(outcome, length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.stream, Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
