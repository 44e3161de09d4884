//! HTTP and WebSockets to servers in sandboxes: `/sandboxes/:id/proxy/:port/…`.
//!
//! The path after the port and the query reach the server as they were sent. Bodies flow both ways
//! as they come, for as long as it takes; a client that leaves takes the connection along. What a
//! sandbox answers is not to be trusted, and has the daemon's own origin here: for browsers it
//! should be published under an address of its own.

mod answer;
mod forwarded;
mod pool;
mod target;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use api::ErrorCode;
use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, upgrade};
use hyper_util::rt::TokioIo;
use orchestrator::{Sandbox, model::Caller};

pub(crate) use self::pool::Pool;
use self::{
    answer::Answer,
    pool::{Key, Lease},
    target::Target,
};
use super::ports::{self, join, parse_port};
use crate::{
    app::App,
    auth::{self, OwnedSandbox},
    connections::Address,
    failure::Failure,
};

pub(crate) async fn proxy(State(app): State<App>, request: Request) -> Result<Response, Failure> {
    let wanted = ports::wanted_upgrade(request.headers());
    let (mut parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let target = Target::of(&uri).ok_or_else(|| Failure::internal("not a proxy path"))?;
    let OwnedSandbox(sandbox) = auth::sandbox_for_guest(&mut parts, &target.id(), &app)?;
    let port = parse_port(target.port)?;
    if let Some(place) = target.with_slash()
        && matches!(parts.method, Method::GET | Method::HEAD)
        && wanted.is_none()
    {
        return Ok((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, place)]).into_response());
    }
    let path = target
        .for_guest()
        .ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, "the path cannot be passed on"))?;
    parts.uri = path;
    let exchange = Exchange { app, sandbox, port, caller: Caller::Owner };
    match wanted {
        Some(protocol) => exchange.upgrade(parts, body, protocol).await,
        None => exchange.pass(parts, body).await,
    }
}

/// One request on its way.
struct Exchange {
    app: App,
    sandbox: Sandbox,
    port: u16,
    caller: Caller,
}

impl Exchange {
    async fn pass(&self, parts: Parts, body: Body) -> Result<Response, Failure> {
        let request = self.for_guest(parts, body, None);
        let (response, lease) = self.send(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.odd("changed to another protocol without being asked"));
        }
        Ok(for_client(response, lease))
    }

    /// As [`pass`](Self::pass); if the server agrees, both connections are joined.
    async fn upgrade(
        &self,
        parts: Parts,
        body: Body,
        protocol: HeaderValue,
    ) -> Result<Response, Failure> {
        let mut original = Request::from_parts(parts, body);
        let handover = ports::handover(&original)?;
        let client = upgrade::on(&mut original);
        let (parts, body) = original.into_parts();
        let request = self.for_guest(parts, body, Some(protocol));
        let (mut response, lease) = self.send_fresh(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(for_client(response, lease));
        }
        let guest = upgrade::on(&mut response);
        let hold = lease.into_hold();
        handover.run(async move {
            match tokio::try_join!(client, guest) {
                Ok((client, guest)) => join(TokioIo::new(client), TokioIo::new(guest)).await,
                Err(error) => tracing::debug!("no upgrade: {}", base::chain(&error)),
            }
            drop(hold);
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

    fn for_guest(&self, mut parts: Parts, body: Body, upgrade: Option<HeaderValue>) -> Request {
        let client: Option<IpAddr> = parts.extensions.get().map(|Address(address)| *address);
        // Nothing of the client's connection is meant for the guest's.
        parts.extensions.clear();
        parts.version = Version::HTTP_11;
        forwarded::to_guest(&mut parts.headers, self.port, client, upgrade);
        if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Said here because methods that rarely have a body would go without it otherwise.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        Request::from_parts(parts, body)
    }

    /// Sends a request over an idle connection if there is one. A server may close such a connection
    /// at any time, so only a request that may be sent twice is sent over one; if it fails there, it
    /// is sent again over a fresh one.
    async fn send(&self, request: Request) -> Result<(Response<Incoming>, Lease), Failure> {
        if !request.method().is_idempotent() || !request.body().is_end_stream() {
            return self.send_fresh(request).await;
        }
        let awake = self.sandbox.awake(self.caller).await?;
        let Some(idle) = self.app.pool.take(&self.key()) else {
            return self.send_over(awake, request).await;
        };
        let mut lease = idle.held(awake.into_hold());
        let mut again = Request::new(Body::empty());
        again.method_mut().clone_from(request.method());
        again.uri_mut().clone_from(request.uri());
        again.headers_mut().clone_from(request.headers());
        match lease.send(request).await {
            Ok(response) => Ok((response, lease)),
            Err(error) => {
                tracing::debug!("an idle connection was closed: {}", base::chain(&error));
                drop(lease);
                self.send_fresh(again).await
            }
        }
    }

    async fn send_fresh(&self, request: Request) -> Result<(Response<Incoming>, Lease), Failure> {
        self.send_over(self.sandbox.awake(self.caller).await?, request).await
    }

    async fn send_over(
        &self,
        awake: orchestrator::Ready,
        request: Request,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let tunnel = awake.connect(self.port).await?;
        let closed = |error: hyper::Error| {
            tracing::debug!("no answer from a guest: {}", base::chain(&error));
            if error.is_parse() {
                self.odd("did not answer with HTTP")
            } else {
                self.odd("closed the connection without an answer")
            }
        };
        let mut lease = self.app.pool.connect(self.key(), tunnel).await.map_err(closed)?;
        let response = lease.send(request).await.map_err(closed)?;
        Ok((response, lease))
    }

    fn key(&self) -> Key {
        (self.sandbox.view().id.to_string(), self.port)
    }

    fn odd(&self, what: &str) -> Failure {
        let message = format!("the server on port {} in the sandbox {what}", self.port);
        Failure::new(ErrorCode::PortClosed, message)
    }
}

fn for_client(response: Response<Incoming>, lease: Lease) -> Response {
    let (mut parts, body) = response.into_parts();
    forwarded::from_guest(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, Body::new(Answer::new(body, lease)))
}
