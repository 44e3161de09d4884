//! Answers that come line by line, and file contents.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{Client, ClientError, connection::Connection};
use crate::{BackupEvent, BuildEvent, JobEvent, ProgressEvent, PullEvent, StreamEvent, WatchEvent};

/// Most bytes of one line.
const MAX_LINE: usize = 16 << 20;

/// An event that knows whether it is the last.
pub trait Event: DeserializeOwned {
    /// Whether nothing follows.
    fn is_last(&self) -> bool;
}

impl Event for StreamEvent {
    fn is_last(&self) -> bool {
        Self::is_last(self)
    }
}

impl Event for ProgressEvent {
    fn is_last(&self) -> bool {
        matches!(self, Self::Result { .. } | Self::Error(_))
    }
}

impl Event for BackupEvent {
    fn is_last(&self) -> bool {
        !matches!(self, Self::Progress { .. } | Self::Unknown)
    }
}

impl Event for PullEvent {
    fn is_last(&self) -> bool {
        matches!(self, Self::Result { .. } | Self::Error(_))
    }
}

impl Event for BuildEvent {
    fn is_last(&self) -> bool {
        Self::is_last(self)
    }
}

impl Event for JobEvent {
    fn is_last(&self) -> bool {
        Self::is_last(self)
    }
}

impl Event for WatchEvent {
    fn is_last(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

/// The events of one operation. Holds the client, because a connection carries one answer at a
/// time; dropping it before the end gives the connection up, which cancels a command.
#[derive(Debug)]
pub struct Events<'a, T> {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end, so that a long line is scanned once.
    scanned: usize,
    ended: bool,
    /// The connection, if it is there for nothing else; it ends with this.
    own: Option<Connection>,
    client: PhantomData<(&'a mut Client, T)>,
}

impl<T: Event> Events<'_, T> {
    pub(super) fn new(body: Incoming) -> Self {
        let client = PhantomData;
        Self { body, buffer: BytesMut::new(), scanned: 0, ended: false, own: None, client }
    }

    /// Events of an operation with a connection of its own.
    pub(super) fn on(connection: Connection, body: Incoming) -> Self {
        Self { own: Some(connection), ..Self::new(body) }
    }

    /// The next event; `None` after the last one.
    ///
    /// # Errors
    /// [`ClientError::StreamCut`] if the stream ends without a last event, and whatever breaks the
    /// connection.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        while !self.ended {
            if let Some(line) = self.take_line() {
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let event: T = serde_json::from_slice(&line)
                    .map_err(|error| ClientError::BadAnswer(error.to_string()))?;
                self.ended = event.is_last();
                if self.ended {
                    self.finish().await;
                }
                return Ok(Some(event));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::BadAnswer(format!("a line of over {MAX_LINE} bytes")));
            }
            if !self.fill().await? {
                return Err(ClientError::StreamCut);
            }
        }
        Ok(None)
    }

    fn take_line(&mut self) -> Option<Bytes> {
        match self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            Some(offset) => {
                let line = self.buffer.split_to(self.scanned + offset).freeze();
                self.buffer.advance(1);
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }

    /// Reads more; false at the end of the body.
    async fn fill(&mut self) -> Result<bool, ClientError> {
        match self.body.frame().await {
            Some(frame) => {
                let frame = frame.map_err(ended_early)?;
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Reads past the last event, so that the connection can carry another request. The event is
    /// what counts: if the rest does not come, the next request makes a new connection.
    async fn finish(&mut self) {
        if self.own.take().is_some() {
            return;
        }
        while matches!(self.fill().await, Ok(true)) {
            self.buffer.clear();
        }
    }
}

/// A body cut short is the same to the caller as one that lacks its last event.
fn ended_early(error: hyper::Error) -> ClientError {
    if error.is_incomplete_message() || error.is_body_write_aborted() {
        ClientError::StreamCut
    } else {
        ClientError::Transport(error)
    }
}

/// A file's content on its way.
#[derive(Debug)]
pub struct FileContent<'a> {
    /// The whole file's size in bytes, if the daemon said; less may be coming.
    pub size: Option<u64>,
    pub(super) body: Incoming,
    pub(super) client: PhantomData<&'a mut Client>,
}

impl FileContent<'_> {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// If the content ends before it is complete.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(ended_early)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
