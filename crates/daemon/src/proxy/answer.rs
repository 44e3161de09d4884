//! The body of an answer on its way to the client, and what may end it before its server does.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::HttpBody,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use hyper::body::{Frame, Incoming, SizeHint};

use super::{pool::Lease, way::Way};
use crate::connections::Ending;

/// Why an answer is not whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// The server broke off.
    #[error(transparent)]
    Server(#[from] hyper::Error),
    /// Nobody may see the rest.
    #[error("the port is not published any more")]
    Withdrawn,
}

/// What ends an answer before its server does.
pub(super) struct Ends {
    withdrawn: BoxFuture<'static, ()>,
    /// For answers that never end by themselves and whose clients come again.
    daemon: Option<BoxFuture<'static, ()>>,
}

impl Ends {
    /// For an answer with these headers that came this way.
    pub(super) fn of(way: &Way, headers: &HeaderMap, ending: Option<Ending>) -> Self {
        let media = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |media| media.as_bytes());
        let is_events = media.to_ascii_lowercase().starts_with(b"text/event-stream");
        let daemon = ending.filter(|_| is_events).map(|ending| ending.begins().boxed());
        Self { withdrawn: way.withdrawn().boxed(), daemon }
    }
}

/// A body with the connection that it comes over, which is given back at the proper end and ends
/// with the body otherwise.
pub(super) struct Answer {
    body: Incoming,
    lease: Option<Lease>,
    ends: Ends,
}

impl Answer {
    pub(super) fn new(body: Incoming, lease: Lease, ends: Ends) -> Self {
        Self { body, lease: Some(lease), ends }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.ends.withdrawn.as_mut().poll(cx).is_ready() {
            self.lease = None;
            return Poll::Ready(Some(Err(Cut::Withdrawn)));
        }
        if let Some(daemon) = &mut self.ends.daemon
            && daemon.as_mut().poll(cx).is_ready()
        {
            self.lease = None;
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.give_back(),
            Some(Err(_)) => self.lease = None,
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Cut::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Unknown: the answer's own `Content-Length` passes, and none is to be made up for one that
    /// has no body.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Whoever knows the length does not ask for the end.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}
