//! Bodies: what is sent, and reading what comes back.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, Incoming},
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};

use super::ClientError;
use crate::{ErrorBody, ErrorCode};

/// Most bytes of one JSON answer.
const MAX_ANSWER: usize = 64 << 20;
/// Bytes read from a file at a time.
const CHUNK: usize = 64 << 10;
/// Most characters of an answer that an error quotes.
const QUOTED: usize = 200;

/// Sends what a reader yields.
#[derive(Debug)]
pub(super) struct ReaderBody<R> {
    reader: R,
    /// Set once all of it has been handed to the connection.
    finished: Arc<AtomicBool>,
}

impl<R> ReaderBody<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, finished: Arc::default() }
    }

    /// Tells whether all of it has been handed to the connection.
    pub(super) fn finished(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.finished)
    }
}

impl<R: AsyncRead + Unpin> Body for ReaderBody<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut chunk = vec![0; CHUNK];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.reader).poll_read(cx, &mut buffer))?;
        let length = buffer.filled().len();
        chunk.truncate(length);
        if length == 0 {
            self.finished.store(true, Ordering::Relaxed);
        }
        Poll::Ready((length > 0).then(|| Ok(Frame::data(Bytes::from(chunk)))))
    }
}

/// Turns every answer that is not a success into the error it carries.
pub(super) async fn expect_success(
    response: Response<Incoming>,
) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = read_all(response).await?;
    let body = serde_json::from_slice::<ErrorBody>(&bytes)
        .unwrap_or_else(|_| foreign_error(status, &bytes));
    Err(ClientError::Api(Box::new(body)))
}

/// What an answer without an error body amounts to: one to `HEAD`, or one of a proxy in between.
fn foreign_error(status: StatusCode, body: &[u8]) -> ErrorBody {
    let code = match status {
        StatusCode::UNAUTHORIZED => ErrorCode::Unauthorized,
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        _ => ErrorCode::Unknown(format!("http_{}", status.as_u16())),
    };
    let text = String::from_utf8_lossy(body);
    let quoted: String = text.trim().chars().take(QUOTED).collect();
    let colon = if quoted.is_empty() { "" } else { ": " };
    ErrorBody::new(code, format!("the server answered {status}{colon}{quoted}"))
}

/// Reads a JSON answer.
pub(super) async fn json<T: DeserializeOwned>(
    response: Response<Incoming>,
) -> Result<T, ClientError> {
    let bytes = read_all(response).await?;
    serde_json::from_slice(&bytes).map_err(|error| ClientError::BadAnswer(error.to_string()))
}

/// Reads an answer that says nothing but that it worked.
pub(super) async fn nothing(response: Response<Incoming>) -> Result<(), ClientError> {
    read_all(response).await.map(drop)
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => ClientError::Transport(*error),
            Err(error) => ClientError::BadAnswer(error.to_string()),
        }),
    }
}
