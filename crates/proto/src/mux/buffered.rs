//! The byte stream with a buffer on either side, so that a batch of small frames costs one read
//! and one write: inside an emulated guest every system call is dear.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::preamble::{PREAMBLE_LEN, is_repeated};

/// Bytes read at once.
const READ_BUFFER: usize = 32 * 1024;

/// Bytes waiting to be written above which no more are taken in.
const WRITE_BUFFER: usize = 64 * 1024;

/// Capacity that an empty write buffer may keep.
const WRITE_KEEP: usize = 2 * WRITE_BUFFER;

/// Any byte stream.
pub(super) trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}

/// A byte stream with its buffers.
pub(super) struct Buffered {
    /// `None` once disconnected.
    io: Option<Box<dyn Io>>,
    read: Vec<u8>,
    /// What of `read` is filled and not yet taken.
    filled: std::ops::Range<usize>,
    /// Whether nothing but preambles may have come: a guest may say its own more than once.
    greeting: bool,
    write: Vec<u8>,
    written: usize,
    refused: bool,
}

/// A handle on [`Buffered`]: one is held by the multiplexer, which fills the buffers, the other by
/// the driver, which empties them.
#[derive(Clone)]
pub(super) struct Wire(Arc<Mutex<Buffered>>);

impl Buffered {
    /// Buffers over `io`; `early` bytes have already been read from it, `write` are to be written.
    pub(super) fn over(io: Box<dyn Io>, early: Vec<u8>, write: Vec<u8>) -> Wire {
        let filled = 0..early.len();
        let mut read = early;
        read.resize(READ_BUFFER.max(read.len()), 0);
        let io = Some(io);
        Wire(Arc::new(Mutex::new(Self {
            io,
            read,
            filled,
            greeting: true,
            write,
            written: 0,
            refused: false,
        })))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        let mut space = ReadBuf::new(&mut self.read);
        ready!(Pin::new(io).poll_read(cx, &mut space))?;
        self.filled = 0..space.filled().len();
        Poll::Ready(Ok(()))
    }

    /// Passes over a preamble at the start of what is there, or notes that there is none.
    fn poll_skip_preamble(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !is_repeated(&self.read[self.filled.clone()]) {
            self.greeting = false;
            return Poll::Ready(Ok(()));
        }
        while self.filled.len() < PREAMBLE_LEN {
            let Some(io) = &mut self.io else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            self.read.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
            let mut space = ReadBuf::new(&mut self.read[self.filled.end..]);
            ready!(Pin::new(io).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.filled.end += space.filled().len();
        }
        self.filled.start += PREAMBLE_LEN;
        if self.filled.is_empty() {
            return self.poll_fill(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if self.write.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.write.len() {
            let rest = &self.write[self.written..];
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.write.clear();
        self.written = 0;
        self.write.shrink_to(WRITE_KEEP);
        Pin::new(io).poll_flush(cx)
    }
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes out what has gathered.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_drain(cx)
    }

    /// Whether a write was refused for want of room since the last call.
    pub(super) fn take_refused(&self) -> bool {
        std::mem::take(&mut self.lock().refused)
    }

    /// Ends the writing side.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lock().io {
            None => Poll::Ready(Ok(())),
            Some(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    /// Drops the byte stream, though streams may still hold on to the session.
    pub(super) fn disconnect(&self) {
        let io = self.lock().io.take();
        drop(io);
    }
}

impl futures_util::io::AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut this = self.lock();
        if this.filled.is_empty() {
            ready!(this.poll_fill(cx))?;
        }
        while this.greeting && !this.filled.is_empty() {
            ready!(this.poll_skip_preamble(cx))?;
        }
        let count = target.len().min(this.filled.len());
        let start = this.filled.start;
        target[..count].copy_from_slice(&this.read[start..start + count]);
        this.filled.start += count;
        Poll::Ready(Ok(count))
    }
}

impl futures_util::io::AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut this = self.lock();
        if this.write.len() - this.written >= WRITE_BUFFER && this.poll_drain(cx)?.is_pending() {
            this.refused = true;
            return Poll::Pending;
        }
        this.write.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The multiplexer flushes after each frame; the driver does it once for all of them.
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.poll_shutdown(cx)
    }
}
