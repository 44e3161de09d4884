//! What requests are given to on a connection to a guest.

use axum::body::Body;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use orchestrator::Tunnel;

#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// Begins HTTP/1.1, and gives what moves the bytes.
pub(super) async fn http1(
    io: TokioIo<Tunnel>,
) -> hyper::Result<(Sender, impl Future<Output = hyper::Result<()>> + Send)> {
    let (sender, connection) = http1::handshake(io).await?;
    Ok((Sender::Http1(sender), connection.with_upgrades()))
}

/// Begins HTTP/2 without asking, and gives what moves the bytes.
pub(super) async fn http2(
    io: TokioIo<Tunnel>,
) -> hyper::Result<(Sender, impl Future<Output = hyper::Result<()>> + Send)> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.timer(TokioTimer::new()).handshake(io).await?;
    Ok((Sender::Http2(sender), connection))
}
