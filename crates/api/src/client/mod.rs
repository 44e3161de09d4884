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
mod connection;
mod endpoint;
mod error;
mod events;
mod routes;
#[cfg(test)]
mod tests;
mod tls;
mod upgrade;
mod wire;

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, body::Incoming, header};
use tokio::io::AsyncRead;

use body::{ReaderBody, expect_success};
use connection::Connection;
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use events::{Event, Events, FileContent};
pub use routes::{ByteRange, Created, FilePart, Terminal};
pub use upgrade::{ByteStream, WebSocket};

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
    connection: Option<Connection>,
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

    /// A client for the same daemon, with a connection of its own.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.endpoint.clone(), self.token.clone())
    }

    async fn reconnect(&mut self) -> Result<(), ClientError> {
        self.connection = None;
        self.connection = Some(self.new_connection().await?);
        Ok(())
    }

    async fn new_connection(&mut self) -> Result<Connection, ClientError> {
        let (connection, took) = Connection::make(&self.endpoint).await?;
        self.timing.connect += took;
        Ok(connection)
    }

    /// Sends a request and waits for the head of a successful answer.
    async fn send(&mut self, mut call: Call) -> Result<Response<Incoming>, ClientError> {
        let mut reused = match &mut self.connection {
            Some(connection) => connection.is_usable().await,
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
            let failed = match connection.send(request, call.upload()).await {
                Ok(response) => {
                    self.timing.server += start.elapsed();
                    let answered = expect_success(response).await;
                    if answered.is_err() && call.upload().is_some() {
                        // Nobody wants the rest of the content, which may have no end.
                        self.connection = None;
                    }
                    return answered;
                }
                Err(failed) => failed,
            };
            self.connection = None;
            // The daemon may close a connection just when the next request goes out on it.
            let again = failed.untouched || call.changes_nothing();
            request = match failed.request {
                Some(unsent) if reused => unsent,
                None if reused && again && call.is_whole() => {
                    call.build(&self.endpoint, self.token.as_deref())?
                }
                _ => return Err(ClientError::Transport(failed.error)),
            };
            reused = false;
            self.reconnect().await?;
        }
    }

    /// Sends a request over a connection that is there for nothing else.
    async fn send_alone(
        &mut self,
        mut call: Call,
    ) -> Result<(Connection, Response<Incoming>), ClientError> {
        let mut connection = self.new_connection().await?;
        let request = call.build(&self.endpoint, self.token.as_deref())?;
        let start = Instant::now();
        self.timing.requests += 1;
        let sent = connection.send(request, call.upload()).await;
        let response = sent.map_err(|failed| ClientError::Transport(failed.error))?;
        self.timing.server += start.elapsed();
        Ok((connection, expect_success(response).await?))
    }
}

/// A request that is not yet HTTP.
#[derive(Debug)]
struct Call {
    method: Method,
    /// Path and query, encoded.
    path: String,
    accept: &'static str,
    /// Further headers.
    headers: Vec<(&'static str, String)>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Nothing,
    Json(Bytes),
    Stream {
        media: &'static str,
        /// Can be sent once.
        body: Option<RequestBody>,
        finished: Arc<AtomicBool>,
    },
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        let content = Content::Nothing;
        Self { method, path: path.into(), accept: headers::JSON, headers: Vec::new(), content }
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

    /// Sends what a reader yields.
    fn content(
        mut self,
        media: &'static str,
        reader: impl AsyncRead + Unpin + Send + 'static,
    ) -> Self {
        let body = ReaderBody::new(reader);
        let finished = body.finished();
        self.content = Content::Stream { media, body: Some(body.boxed_unsync()), finished };
        self
    }

    fn changes_nothing(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Whether it can be built, perhaps again.
    fn is_whole(&self) -> bool {
        !matches!(self.content, Content::Stream { body: None, .. })
    }

    fn upload(&self) -> Option<Arc<AtomicBool>> {
        match &self.content {
            Content::Stream { finished, .. } => Some(Arc::clone(finished)),
            Content::Nothing | Content::Json(_) => None,
        }
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
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let body = match &mut self.content {
            Content::Nothing => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Content::Json(json) => {
                request = request.header(header::CONTENT_TYPE, headers::JSON);
                Full::new(json.clone()).map_err(|never| match never {}).boxed_unsync()
            }
            Content::Stream { media, body, .. } => {
                request = request.header(header::CONTENT_TYPE, *media);
                // A content that is gone is never built: see `is_whole`.
                body.take().unwrap_or_default()
            }
        };
        request.body(body).map_err(ClientError::Request)
    }
}

fn header_text<'a>(response: &'a Response<Incoming>, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}
