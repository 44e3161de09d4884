//! The HTTP client: one connection, one request at a time, over a Unix socket or TCP.
//!
//! ```text
//! routes ──► Call ──► send ──► connection (kept, made anew when it was closed) ──► daemon
//!                       └──► body: JSON, events line by line, or file content
//! ```
//!
//! Invariant: a request that may have reached the daemon is sent again only if it is one that
//! changes nothing. Needs a tokio runtime with I/O and time.

mod body;
mod endpoint;
mod error;
mod events;
mod routes;
#[cfg(test)]
mod tests;

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use body::expect_success;
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use events::{Event, Events, FileContent};
pub use routes::{Created, FilePart};

use crate::headers;

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// What this client calls itself.
const USER_AGENT: &str = concat!("bhatti/", env!("CARGO_PKG_VERSION"));

/// Where the time of a client's requests went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Making connections.
    pub connect: Duration,
    /// From sending a request to having the head of its answer.
    pub server: Duration,
    /// How many requests were sent.
    pub requests: u32,
}

/// Talks to one daemon. See the [module](self).
pub struct Client {
    endpoint: Endpoint,
    token: Option<String>,
    connection: Option<SendRequest<RequestBody>>,
    timing: Timing,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects with its first request. `token` is the API key.
    pub fn new(endpoint: Endpoint, token: Option<String>) -> Self {
        Self { endpoint, token, connection: None, timing: Timing::default() }
    }

    /// A client that is connected.
    ///
    /// # Errors
    /// If no daemon listens at `endpoint`.
    pub async fn connect(endpoint: Endpoint, token: Option<String>) -> Result<Self, ClientError> {
        let mut client = Self::new(endpoint, token);
        client.reconnect().await?;
        Ok(client)
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where the time went so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    async fn reconnect(&mut self) -> Result<(), ClientError> {
        let start = Instant::now();
        self.connection = Some(match self.endpoint.connect().await? {
            endpoint::Stream::Unix(stream) => handshake(stream).await?,
            endpoint::Stream::Tcp(stream) => handshake(stream).await?,
        });
        self.timing.connect += start.elapsed();
        Ok(())
    }

    /// Sends a request and waits for the head of a successful answer.
    async fn send(&mut self, mut call: Call) -> Result<Response<Incoming>, ClientError> {
        let mut reused = match &mut self.connection {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !reused {
            self.reconnect().await?;
        }
        let mut request = call.build(&self.endpoint, self.token.as_deref())?;
        loop {
            let Some(connection) = &mut self.connection else { return Err(ClientError::StreamCut) };
            let start = Instant::now();
            self.timing.requests += 1;
            let mut error = match connection.try_send_request(request).await {
                Ok(response) => {
                    self.timing.server += start.elapsed();
                    return expect_success(response).await;
                }
                Err(error) => error,
            };
            self.connection = None;
            // The daemon may close a connection just when the next request goes out on it.
            request = match error.take_message() {
                Some(unsent) if reused => unsent,
                None if reused && call.changes_nothing() => {
                    call.build(&self.endpoint, self.token.as_deref())?
                }
                _ => return Err(ClientError::Transport(error.into_error())),
            };
            reused = false;
            self.reconnect().await?;
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<RequestBody>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Transport)?;
    // Ends with the connection; what goes wrong on it is reported by the request that it fails.
    tokio::spawn(connection);
    Ok(sender)
}

/// A request that is not yet HTTP.
#[derive(Debug)]
struct Call {
    method: Method,
    /// Path and query, encoded.
    path: String,
    accept: &'static str,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Nothing,
    Json(Bytes),
    /// Can be sent once.
    Stream(Option<RequestBody>),
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), accept: headers::JSON, content: Content::Nothing }
    }

    /// Asks for an answer line by line.
    fn streamed(mut self) -> Self {
        self.accept = headers::NDJSON;
        self
    }

    fn json<T: serde::Serialize>(mut self, body: &T) -> Result<Self, ClientError> {
        self.content = Content::Json(serde_json::to_vec(body).map_err(ClientError::Encode)?.into());
        Ok(self)
    }

    fn changes_nothing(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    fn build(
        &mut self,
        endpoint: &Endpoint,
        token: Option<&str>,
    ) -> Result<Request<RequestBody>, ClientError> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(header::HOST, endpoint.authority())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, self.accept);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match &mut self.content {
            Content::Nothing => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Content::Json(json) => {
                request = request.header(header::CONTENT_TYPE, headers::JSON);
                Full::new(json.clone()).map_err(|never| match never {}).boxed_unsync()
            }
            Content::Stream(body) => {
                request = request.header(header::CONTENT_TYPE, headers::OCTETS);
                // Only requests that change nothing are built twice, and those have no content.
                body.take().unwrap_or_default()
            }
        };
        request.body(body).map_err(ClientError::Request)
    }
}
