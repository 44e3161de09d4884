//! Frames over one stream of a session.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::io::AsyncWrite;
use futures_util::stream::Stream as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Core, MuxError, Permit};
use crate::frame::{DATA_CHUNK, Decoder, FRAME_HEADER, Frame, FrameKind, encode, header};

/// Capacity that an idle sender may keep.
const QUEUE_KEEP: usize = 2 * DATA_CHUNK;

pub(super) struct Shared {
    stream: Mutex<yamux::Stream>,
    core: Arc<Core>,
    /// Given back when the stream is gone.
    _permit: Permit,
}

impl Shared {
    fn stream(&self) -> MutexGuard<'_, yamux::Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer has reset the stream, or the session is over.
    pub(super) fn is_closed(&self) -> bool {
        self.stream().is_closed()
    }

    /// Why the stream is of no more use.
    fn why_closed(&self) -> MuxError {
        if self.core.is_live() { MuxError::StreamClosed } else { MuxError::SessionEnded }
    }
}

/// One operation between host and guest. Dropping it tells the peer, which then reads the end of
/// the stream and cannot send any more; after [`Stream::finish`] the peer learns only that nothing
/// more will come, so a side that still waits for an answer keeps its stream unfinished.
#[derive(Debug)]
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

/// Sends the frames of a stream. What is queued leaves together with the next that is sent, so that
/// a request and its first data cost the peer one read.
pub struct SendHalf {
    shared: Arc<Shared>,
    /// Encoded frames, of which the multiplexer has the first `taken` bytes.
    queue: Vec<u8>,
    taken: usize,
    /// Kind and place in the queue of its last frame, if that is of data and may have room.
    open: Option<(FrameKind, usize)>,
}

/// Receives the frames of a stream.
pub struct RecvHalf {
    shared: Arc<Shared>,
    decoder: Decoder,
}

impl std::fmt::Debug for SendHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendHalf").field("stream", &self.shared.stream).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvHalf").field("stream", &self.shared.stream).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(stream: yamux::Stream, core: Arc<Core>, permit: Permit) -> Self {
        let shared = Arc::new(Shared { stream: Mutex::new(stream), core, _permit: permit });
        let recv = RecvHalf { shared: Arc::clone(&shared), decoder: Decoder::new() };
        let send = SendHalf { shared, queue: Vec::new(), taken: 0, open: None };
        Self { send, recv }
    }

    /// See [`SendHalf::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), MuxError> {
        self.send.send(frame).await
    }

    /// See [`SendHalf::send_json`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_json(&mut self, message: &impl Serialize) -> Result<(), MuxError> {
        self.send.send_json(message).await
    }

    /// See [`SendHalf::send_data`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_data(&mut self, kind: FrameKind, data: &[u8]) -> Result<(), MuxError> {
        self.send.send_data(kind, data).await
    }

    /// See [`SendHalf::queue_json`].
    ///
    /// # Errors
    /// As there.
    pub fn queue_json(&mut self, message: &impl Serialize) -> Result<(), MuxError> {
        self.send.queue_json(message)
    }

    /// See [`SendHalf::queue_data`].
    ///
    /// # Errors
    /// As there.
    pub fn queue_data(&mut self, kind: FrameKind, data: &[u8]) -> Result<(), MuxError> {
        self.send.queue_data(kind, data)
    }

    /// See [`SendHalf::queued`].
    pub fn queued(&self) -> usize {
        self.send.queued()
    }

    /// See [`SendHalf::flush`].
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&mut self) -> Result<(), MuxError> {
        self.send.flush().await
    }

    /// See [`RecvHalf::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self) -> Result<Option<Frame>, MuxError> {
        self.recv.recv().await
    }

    /// See [`RecvHalf::recv_json`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, MuxError> {
        self.recv.recv_json().await
    }

    /// See [`SendHalf::finish`].
    ///
    /// # Errors
    /// As there.
    pub async fn finish(&mut self) -> Result<(), MuxError> {
        self.send.finish().await
    }

    /// See [`RecvHalf::closed`].
    pub async fn closed(&self) {
        self.recv.closed().await;
    }

    /// Both directions, usable from different tasks; the stream is gone when both are dropped.
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }
}

impl SendHalf {
    /// Sends one frame; waits while the peer does not read. What a call that is abandoned half-way
    /// has not sent goes with the next.
    ///
    /// # Errors
    /// The frame is too large, or stream or session have ended.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), MuxError> {
        self.open = None;
        frame.encode(&mut self.queue)?;
        self.flush().await
    }

    /// Sends `message` as a JSON frame.
    ///
    /// # Errors
    /// As [`SendHalf::send`]; the message cannot be written as JSON.
    pub async fn send_json(&mut self, message: &impl Serialize) -> Result<(), MuxError> {
        self.queue_json(message)?;
        self.flush().await
    }

    /// Sends `data` in frames of at most [`DATA_CHUNK`]; one empty frame if there is none. A call
    /// that is abandoned may have sent a part of it.
    ///
    /// # Errors
    /// As [`SendHalf::send`].
    pub async fn send_data(&mut self, kind: FrameKind, data: &[u8]) -> Result<(), MuxError> {
        let mut rest = data;
        loop {
            let (now, later) = rest.split_at(rest.len().min(DATA_CHUNK));
            self.queue_data(kind, now)?;
            self.flush().await?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    /// Puts `message` as a JSON frame into the queue.
    ///
    /// # Errors
    /// The message is too large or cannot be written as JSON.
    pub fn queue_json(&mut self, message: &impl Serialize) -> Result<(), MuxError> {
        let json = serde_json::to_vec(message)?;
        self.open = None;
        encode(FrameKind::Json, &json, &mut self.queue)?;
        Ok(())
    }

    /// Puts `data` into the queue, in frames of at most [`DATA_CHUNK`] which pieces of the same kind
    /// share; one empty frame if there is none.
    ///
    /// # Errors
    /// None at present.
    pub fn queue_data(&mut self, kind: FrameKind, data: &[u8]) -> Result<(), MuxError> {
        let mut rest = data;
        if !data.is_empty() {
            rest = self.extend_open(kind, data)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
        loop {
            let (now, later) = rest.split_at(rest.len().min(DATA_CHUNK));
            // The empty frame means something, so nothing may be added to it.
            self.open = (!now.is_empty()).then_some((kind, self.queue.len()));
            encode(kind, now, &mut self.queue)?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    /// How many bytes the queue holds.
    pub fn queued(&self) -> usize {
        self.queue.len() - self.taken
    }

    /// Sends what is in the queue; waits while the peer does not read.
    ///
    /// # Errors
    /// Stream or session have ended.
    pub async fn flush(&mut self) -> Result<(), MuxError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// As [`SendHalf::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        while let Some(rest) = self.queue.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let written = Pin::new(&mut *self.shared.stream()).poll_write(cx, rest);
            match std::task::ready!(written) {
                Ok(count) => self.taken += count,
                Err(_) => return Poll::Ready(Err(self.shared.why_closed())),
            }
        }
        self.queue.clear();
        self.queue.shrink_to(QUEUE_KEEP);
        (self.taken, self.open) = (0, None);
        Poll::Ready(Ok(()))
    }

    /// Adds as much of `data` as fits to the queue's last frame and gives the rest.
    fn extend_open<'a>(&mut self, kind: FrameKind, data: &'a [u8]) -> Result<&'a [u8], MuxError> {
        // A frame whose length has been sent stays as it is.
        let open = self.open.filter(|(open, at)| *open == kind && *at >= self.taken);
        let Some((_, at)) = open else { return Ok(data) };
        let length = self.queue.len() - at - FRAME_HEADER;
        let (now, later) = data.split_at(data.len().min(DATA_CHUNK.saturating_sub(length)));
        if !now.is_empty() {
            let header = header(kind, length + now.len())?;
            self.queue[at..at + FRAME_HEADER].copy_from_slice(&header);
            self.queue.extend_from_slice(now);
        }
        Ok(later)
    }

    /// Tells the peer that nothing more will be sent.
    ///
    /// # Errors
    /// Stream or session have ended.
    pub async fn finish(&mut self) -> Result<(), MuxError> {
        self.flush().await?;
        let shared = &self.shared;
        poll_fn(|cx| Pin::new(&mut *shared.stream()).poll_close(cx))
            .await
            .map_err(|_| shared.why_closed())
    }
}

impl RecvHalf {
    /// The next frame; `None` when the peer has finished or dropped its side. Safe to abandon.
    ///
    /// # Errors
    /// The bytes are no frames, the stream ends within one, or the session has ended.
    pub async fn recv(&mut self) -> Result<Option<Frame>, MuxError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Waits until the peer has dropped the stream or the session has ended, even if what the peer
    /// sent before has not been received yet. A peer that only finished is not gone.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            // Registered first: the driver may close the stream at any time.
            self.shared.core.watch(&self.shared, cx.waker());
            if self.shared.is_closed() || !self.shared.core.is_live() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// As [`RecvHalf::recv`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, MuxError>> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            let packet = std::task::ready!(Pin::new(&mut *self.shared.stream()).poll_next(cx));
            match packet {
                Some(Ok(packet)) => self.decoder.push(packet.as_ref()),
                Some(Err(_)) | None if !self.shared.core.is_live() => {
                    return Poll::Ready(Err(MuxError::SessionEnded));
                }
                Some(Err(_)) | None if self.decoder.is_at_boundary() => {
                    return Poll::Ready(Ok(None));
                }
                Some(Err(_)) | None => return Poll::Ready(Err(MuxError::Truncated)),
            }
        }
    }

    /// The next frame as a message.
    ///
    /// # Errors
    /// As [`RecvHalf::recv`]; the frame is not a message of this type.
    pub async fn recv_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, MuxError> {
        match self.recv().await? {
            None => Ok(None),
            Some(frame) if frame.kind == FrameKind::Json => {
                Ok(Some(serde_json::from_slice(&frame.payload)?))
            }
            Some(_) => Err(MuxError::UnexpectedData),
        }
    }
}
