//! Bytes between a thread that blocks and a task that must not.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
};

/// Pieces that may be under way.
const QUEUE: usize = 8;

/// At the end comes an empty one: without it, the stream was cut.
type Piece = Bytes;

/// A pipe that a thread writes to.
pub(crate) fn from_thread() -> (BlockingWriter, AsyncReader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (BlockingWriter(sender), AsyncReader { receiver, current: Bytes::new(), ended: false })
}

/// A pipe between two tasks.
pub(crate) fn between_tasks() -> (AsyncWriter, AsyncReader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (AsyncWriter(sender), AsyncReader { receiver, current: Bytes::new(), ended: false })
}

/// A pipe that a thread reads from.
pub(crate) fn to_thread() -> (AsyncWriter, BlockingReader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (AsyncWriter(sender), BlockingReader { receiver, current: Bytes::new(), ended: false })
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive was cut short")
}

#[derive(Debug)]
pub(crate) struct BlockingWriter(mpsc::Sender<Piece>);

impl BlockingWriter {
    /// Says that this is all.
    pub(crate) fn finish(self) {
        // Whoever does not read any more does not want to know either.
        let _ = self.0.blocking_send(Bytes::new());
    }
}

impl Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            let piece = Bytes::copy_from_slice(bytes);
            self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct AsyncReader {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl AsyncRead for AsyncReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.current.is_empty() && !self.ended {
            self.current = ready!(self.receiver.poll_recv(cx)).ok_or_else(cut)?;
            self.ended = self.current.is_empty();
        }
        let length = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current.split_to(length));
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
pub(crate) struct AsyncWriter(mpsc::Sender<Piece>);

impl AsyncWriter {
    /// Passes a piece on; false if nobody reads any more.
    pub(crate) async fn send(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.0.send(piece).await.is_ok()
    }

    /// Says that this is all.
    pub(crate) async fn finish(self) {
        let _ = self.0.send(Bytes::new()).await;
    }
}

#[derive(Debug)]
pub(crate) struct BlockingReader {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.ended {
            self.current = self.receiver.blocking_recv().ok_or_else(cut)?;
            self.ended = self.current.is_empty();
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
