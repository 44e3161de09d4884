//! A TCP port of the guest as a byte stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use proto::{
    frame::{DATA_CHUNK, FrameKind},
    message::{Request, Response},
    mux::{MuxError, RecvHalf, SendHalf, Session},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ask, unexpected};
use crate::{Kind, Result, activity::Busy};

/// A sandbox that is awake and stays so, for a connection that is about to be made or used.
#[derive(Debug)]
pub struct Ready {
    pub(crate) session: Session,
    pub(crate) busy: Busy,
}

/// Keeps a sandbox awake for a connection.
#[derive(Debug)]
pub struct Hold {
    _busy: Busy,
}

impl Ready {
    /// Connects to a port of the guest's own loopback.
    ///
    /// # Errors
    /// [`Kind::PortClosed`] if nothing listens there.
    pub async fn connect(mut self, port: u16) -> Result<Tunnel> {
        match ask(&self.session, &Request::Tunnel { port }).await {
            Ok((stream, Response::Done)) => {
                let (send, recv) = stream.split();
                self.busy.begun();
                let hold = Some(Hold { _busy: self.busy });
                Ok(Tunnel { send, recv, chunk: Bytes::new(), ended: false, finished: false, hold })
            }
            Ok((_, other)) => Err(unexpected(&other)),
            Err(error) if error.kind == Kind::PortClosed => {
                Err(error.hint(format!("nothing listens on port {port} in the sandbox")))
            }
            Err(error) => Err(error),
        }
    }

    /// Stays awake for a connection that exists already.
    pub fn into_hold(mut self) -> Hold {
        self.busy.begun();
        Hold { _busy: self.busy }
    }
}

/// A connection to a port of a guest. Each direction ends by itself: shutting it down is an end of
/// file to the guest's server, whose own is an end of file here. Dropping it closes both at once.
/// It keeps its sandbox awake unless its [`Hold`] is taken out.
#[derive(Debug)]
pub struct Tunnel {
    send: SendHalf,
    recv: RecvHalf,
    /// What was received and not yet read.
    chunk: Bytes,
    /// The guest will send no more.
    ended: bool,
    /// We shall send no more.
    finished: bool,
    hold: Option<Hold>,
}

impl Tunnel {
    /// Takes out what keeps the sandbox awake, for a connection that may be idle in between.
    pub fn take_hold(&mut self) -> Option<Hold> {
        self.hold.take()
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let frame = match ready!(self.recv.poll_recv(cx)) {
            Ok(Some(frame)) => frame,
            // The agent leaves without a word if the connection was reset.
            Ok(None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Err(error) => return Poll::Ready(Err(broken(error))),
        };
        match frame.kind {
            FrameKind::Data => {
                self.ended = frame.payload.is_empty();
                self.chunk = frame.payload.into();
                Poll::Ready(Ok(()))
            }
            FrameKind::Json => match serde_json::from_slice(&frame.payload) {
                Ok(Response::Error(error)) => Poll::Ready(Err(io::Error::other(error))),
                _ => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            },
            FrameKind::Stdin | FrameKind::Stdout | FrameKind::Stderr => {
                Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
            }
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() && !self.ended {
            ready!(self.poll_chunk(cx))?;
        }
        let count = self.chunk.len().min(target.remaining());
        target.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // An empty frame would be the end.
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.send.poll_flush(cx)).map_err(broken)?;
        let count = data.len().min(DATA_CHUNK);
        self.send.queue_data(FrameKind::Data, &data[..count]).map_err(broken)?;
        // What does not leave now does with the next write or flush.
        match self.send.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.send.queue_data(FrameKind::Data, &[]).map_err(broken)?;
            self.finished = true;
        }
        self.send.poll_flush(cx).map_err(broken)
    }
}

fn broken(error: MuxError) -> io::Error {
    let kind = match error {
        MuxError::StreamClosed => io::ErrorKind::BrokenPipe,
        MuxError::SessionEnded => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests;
