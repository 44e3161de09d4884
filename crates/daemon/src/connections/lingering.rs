//! What a client still sends when nobody wants it any more.
//!
//! Closing a connection on a client that still sends would reset it, and the client might never see
//! the answer. So a body that is dropped before its end is read on for a while and forgotten; whoever
//! refuses a request need not think of it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{runtime::Handle, time::timeout};

/// How long it is read on at most.
const WHILE: Duration = Duration::from_secs(30);
/// How long nothing may come.
const PAUSE: Duration = Duration::from_secs(5);

/// A request's body.
#[derive(Debug)]
pub(super) struct Lingering {
    /// Until its end has been seen.
    body: Option<Incoming>,
    /// The client waits with it until somebody reads.
    waits: bool,
}

impl Lingering {
    pub(super) fn new(body: Incoming, request: &HeaderMap) -> Self {
        Self { body: Some(body), waits: request.contains_key(header::EXPECT) }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !self.waits
            && !body.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(WHILE, forget(body)));
        }
    }
}

async fn forget(mut body: Incoming) {
    while let Ok(Some(Ok(_))) = timeout(PAUSE, body.frame()).await {
        // However fast the client is, others and the clock get their turn.
        tokio::task::consume_budget().await;
    }
}
