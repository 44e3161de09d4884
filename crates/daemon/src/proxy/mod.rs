//! From an HTTP request to a server in a sandbox and back: the part that the API's proxy route and
//! the public addresses have in common.
//!
//! ```text
//! routes::proxy ─┐                    ┌─ way: wakes, takes a place ─┐
//!                ├─► Exchange ────────┤                             ├─► tunnel ─► server
//! public ────────┘    forwarded       └─ pool: idle connections ────┘
//! ```
//! Bodies flow both ways as they come, for as long as it takes; a client that leaves takes the
//! connection along. What a sandbox answers is not to be trusted.

mod answer;
mod forwarded;
mod pool;
mod sender;
mod upgrade;
mod way;

use api::ErrorCode;
use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri, Version, header, request::Parts, uri::Authority,
    },
    response::Response,
};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orchestrator::Sandbox;

use self::{
    answer::{Answer, Ends},
    pool::{Key, Lease, Protocol},
};
pub(crate) use self::{
    forwarded::{Came, FORWARDED_FOR},
    pool::Pool,
    upgrade::{handover, join, lists, wanted_upgrade},
    way::{Entered, Keep, Way},
};
use crate::{connections::Ending, failure::Failure};

/// One request on its way. Its path is the server's already.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) pool: Pool,
    pub(crate) sandbox: Sandbox,
    pub(crate) port: u16,
    pub(crate) way: Way,
    pub(crate) came: Came,
}

impl Exchange {
    /// Has the request answered.
    pub(crate) async fn run(&self, parts: Parts, body: Body) -> Result<Response, Failure> {
        let answered = async {
            match wanted_upgrade(&parts.headers).filter(|_| parts.version < Version::HTTP_2) {
                Some(protocol) => self.upgrade(parts, body, protocol).await,
                None => self.pass(parts, body).await,
            }
        };
        tokio::select! {
            biased;
            answered = answered => answered,
            () = self.way.withdrawn() => {
                let message = format!("port {} is not published any more", self.port);
                Err(Failure::new(ErrorCode::SandboxNotFound, message))
            }
        }
    }

    async fn pass(&self, parts: Parts, body: Body) -> Result<Response, Failure> {
        let ending = parts.extensions.get().cloned();
        let protocol = protocol(&parts);
        let request = self.for_guest(parts, body, None, protocol);
        let (response, lease) = self.send(request, protocol).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.odd("changed to another protocol without being asked"));
        }
        Ok(self.for_client(response, lease, ending))
    }

    /// As [`pass`](Self::pass); if the server agrees, both connections are joined.
    async fn upgrade(
        &self,
        parts: Parts,
        body: Body,
        wanted: HeaderValue,
    ) -> Result<Response, Failure> {
        let mut original = Request::from_parts(parts, body);
        let handover = handover(&original)?;
        let ending = original.extensions().get().cloned();
        let client = hyper::upgrade::on(&mut original);
        let (parts, body) = original.into_parts();
        let request = self.for_guest(parts, body, Some(wanted), Protocol::Http1);
        let (mut response, lease) = self.send_fresh(request, Protocol::Http1).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(self.for_client(response, lease, ending));
        }
        let guest = hyper::upgrade::on(&mut response);
        let keep = lease.into_keep();
        let withdrawn = self.way.withdrawn();
        handover.run(async move {
            let joined = async {
                match tokio::try_join!(client, guest) {
                    Ok((client, guest)) => join(TokioIo::new(client), TokioIo::new(guest)).await,
                    Err(error) => tracing::debug!("no upgrade: {}", base::chain(&error)),
                }
            };
            tokio::select! {
                () = joined => {}
                () = withdrawn => {}
            }
            drop(keep);
        });
        let agreed = response.headers().get(header::UPGRADE).cloned();
        let (mut parts, _) = response.into_parts();
        forwarded::from_guest(&mut parts.headers);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(agreed) = agreed {
            parts.headers.insert(header::UPGRADE, agreed);
        }
        Ok(Response::from_parts(parts, Body::empty()))
    }

    fn for_guest(
        &self,
        mut parts: Parts,
        body: Body,
        upgrade: Option<HeaderValue>,
        protocol: Protocol,
    ) -> Request {
        // Nothing of the client's connection is meant for the guest's.
        parts.extensions.clear();
        forwarded::to_guest(&mut parts.headers, self.port, &self.came, upgrade);
        // Written anew: however it was said, the body is what was understood.
        if parts.headers.remove(header::CONTENT_LENGTH).is_some()
            && let Some(length) = body.size_hint().exact()
        {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        match protocol {
            Protocol::Http2 => {
                parts.version = Version::HTTP_2;
                with_authority(&mut parts, self.port);
            }
            Protocol::Http1 => {
                parts.version = Version::HTTP_11;
                if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
                    // Said here because methods that rarely have a body would go without it
                    // otherwise.
                    let chunked = HeaderValue::from_static("chunked");
                    parts.headers.insert(header::TRANSFER_ENCODING, chunked);
                }
            }
        }
        Request::from_parts(parts, body)
    }

    /// Sends a request over an idle connection if there is one. A server may close such a connection
    /// at any time, so only a request that may be sent twice is sent over one; if it fails there, it
    /// is sent again over a fresh one.
    async fn send(
        &self,
        request: Request,
        protocol: Protocol,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        if !request.method().is_idempotent() || !request.body().is_end_stream() {
            return self.send_fresh(request, protocol).await;
        }
        let entered = self.way.enter(&self.sandbox).await?;
        let Some(idle) = self.pool.take(&self.key(protocol)) else {
            return self.send_over(entered, request, protocol).await;
        };
        let mut lease = idle.kept(entered.into_keep());
        let mut again = Request::new(Body::empty());
        again.method_mut().clone_from(request.method());
        again.uri_mut().clone_from(request.uri());
        again.headers_mut().clone_from(request.headers());
        *again.version_mut() = request.version();
        match lease.send(request).await {
            Ok(response) => Ok((response, lease)),
            Err(error) => {
                tracing::debug!("an idle connection was closed: {}", base::chain(&error));
                drop(lease);
                self.send_fresh(again, protocol).await
            }
        }
    }

    async fn send_fresh(
        &self,
        request: Request,
        protocol: Protocol,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let entered = self.way.enter(&self.sandbox).await?;
        self.send_over(entered, request, protocol).await
    }

    async fn send_over(
        &self,
        entered: Entered,
        request: Request,
        protocol: Protocol,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut tunnel = entered.ready.connect(self.port).await?;
        let keep = Keep::new(tunnel.take_hold(), entered.place);
        let closed = |error: hyper::Error| {
            tracing::debug!("no answer from a guest: {}", base::chain(&error));
            if error.is_parse() {
                self.odd("did not answer with HTTP")
            } else {
                self.odd("closed the connection without an answer")
            }
        };
        let connecting = self.pool.connect(self.key(protocol), tunnel, keep);
        let mut lease = connecting.await.map_err(closed)?;
        let response = lease.send(request).await.map_err(closed)?;
        Ok((response, lease))
    }

    fn for_client(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        ending: Option<Ending>,
    ) -> Response {
        let (mut parts, body) = response.into_parts();
        forwarded::from_guest(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let ends = Ends::of(&self.way, &parts.headers, ending);
        Response::from_parts(parts, Body::new(Answer::new(body, lease, ends)))
    }

    fn key(&self, protocol: Protocol) -> Key {
        Key { sandbox: self.sandbox.view().id.to_string(), port: self.port, protocol }
    }

    fn odd(&self, what: &str) -> Failure {
        let message = format!("the server on port {} in the sandbox {what}", self.port);
        Failure::new(ErrorCode::PortClosed, message)
    }
}

/// What the server is to be spoken to. gRPC is HTTP/2 without asking; whatever else speaks HTTP/2
/// also speaks HTTP/1.1.
fn protocol(parts: &Parts) -> Protocol {
    let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
    if grpc { Protocol::Http2 } else { Protocol::Http1 }
}

/// Whether it is gRPC proper; what browsers send in its place goes over HTTP/1.1, too.
fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let rest = media.and_then(|media| media.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// Moves the host to where HTTP/2 has it.
fn with_authority(parts: &mut Parts, port: u16) {
    let host = parts.headers.remove(header::HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = authority.map_or_else(|| format!("localhost:{port}"), |a| a.to_string());
    let path = parts.uri.path_and_query().cloned();
    let whole = Uri::builder().scheme("http").authority(authority);
    if let Some(path) = path
        && let Ok(uri) = whole.path_and_query(path).build()
    {
        parts.uri = uri;
    }
}
