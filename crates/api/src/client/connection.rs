//! A connection that requests go over, one at a time.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::{
    ClientError, Endpoint, RequestBody,
    wire::{Counters, Stream, Wire},
};

/// A connection. Dropping it ends what is going on on it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    stream: Weak<Stream>,
    counters: Arc<Counters>,
    /// Whether the content of the last request has been sent, if it was a stream.
    upload: Option<Arc<AtomicBool>>,
    _task: AbortOnDrop,
}

/// What a request that failed leaves behind.
pub(super) struct Unsent {
    pub(super) error: hyper::Error,
    /// The request, if nothing of it was looked at.
    pub(super) request: Option<Request<RequestBody>>,
    /// Whether not one byte of it left this machine.
    pub(super) untouched: bool,
}

impl Connection {
    /// Makes one, and says how long that took.
    pub(super) async fn make(endpoint: &Endpoint) -> Result<(Self, Duration), ClientError> {
        let start = Instant::now();
        let stream = Arc::new(endpoint.connect().await?);
        let counters = Arc::<Counters>::default();
        let weak = Arc::downgrade(&stream);
        let wire = Wire::http(stream, Arc::clone(&counters));
        let io = TokioIo::new(endpoint.encrypt(wire).await?);
        let (sender, driver) = http1::handshake(io).await.map_err(ClientError::Transport)?;
        // Ends with the connection; what goes wrong on it is reported by the request that it fails.
        let task = AbortOnDrop(tokio::spawn(async move {
            let _ = driver.await;
        }));
        let made = Self { sender, stream: weak, counters, upload: None, _task: task };
        Ok((made, start.elapsed()))
    }

    /// Whether another request can go over it. Asks the system, because a daemon that closed it a
    /// moment ago is known there first.
    pub(super) async fn is_usable(&mut self) -> bool {
        let sent_all = |upload: Arc<AtomicBool>| upload.load(Ordering::Relaxed);
        if !self.upload.take().is_none_or(sent_all) {
            return false;
        }
        self.sender.ready().await.is_ok()
            && self.stream.upgrade().is_some_and(|stream| stream.is_quiet())
    }

    /// Sends a request; `upload` tells when a streamed content has been sent.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        upload: Option<Arc<AtomicBool>>,
    ) -> Result<Response<Incoming>, Unsent> {
        let before = self.counters.sent();
        self.upload = upload;
        self.sender.try_send_request(request).await.map_err(
            |mut error: TrySendError<Request<RequestBody>>| Unsent {
                request: error.take_message(),
                untouched: self.counters.sent() == before,
                error: error.into_error(),
            },
        )
    }
}

/// A task that does not outlive this.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
