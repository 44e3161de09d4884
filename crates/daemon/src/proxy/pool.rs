//! Connections to servers in sandboxes, kept for the next request.
//!
//! ```text
//!   Lease ── request ──► Connection ─ task ─► tunnel ─► server
//!     │ given back: idle, keeps nothing awake        ▲
//!     ▼                                              │
//!   Pool ── taken: a lease again, and kept ───────┘
//! ```
//! An idle connection does not keep its sandbox awake: what does is the lease's. It ends by itself
//! when the server or the session closes it, or when it has been idle for [`IDLE`].

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use orchestrator::Tunnel;
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    sender::{self, Sender},
    way::Keep,
};

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Most idle connections to one port.
const IDLE_PER_PORT: usize = 8;
/// Most idle connections altogether.
const IDLE_MAX: usize = 64;

/// What connections are alike in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The sandbox's id.
    pub(super) sandbox: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// What a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    /// Without asking first, as gRPC does.
    Http2,
}

/// See the module. Clones are the same pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Arc<Shared>);

impl Default for Pool {
    fn default() -> Self {
        Self::with_patience(IDLE)
    }
}

#[derive(Debug)]
struct Shared {
    /// The one that has been idle longest comes first.
    idle: Mutex<VecDeque<Idle>>,
    numbers: AtomicU64,
    /// How long a connection may be idle.
    patience: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// An HTTP connection through a tunnel.
#[derive(Debug)]
struct Connection {
    number: u64,
    key: Key,
    sender: Sender,
    task: AbortHandle,
}

/// A connection for one request. Dropped, it ends, and the server learns that nobody listens.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Pool,
    connection: Option<Connection>,
    keep: Option<Keep>,
}

impl Pool {
    fn with_patience(patience: Duration) -> Self {
        let (idle, numbers) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Shared { idle, numbers, patience }))
    }

    /// Makes a connection of a tunnel.
    pub(super) async fn connect(
        &self,
        key: Key,
        tunnel: Tunnel,
        keep: Keep,
    ) -> hyper::Result<Lease> {
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let (pool, io) = (Arc::downgrade(&self.0), TokioIo::new(tunnel));
        let (sender, task) = match key.protocol {
            Protocol::Http1 => {
                let (sender, connection) = sender::http1(io).await?;
                (sender, tokio::spawn(drive(connection, pool, number)))
            }
            Protocol::Http2 => {
                let (sender, connection) = sender::http2(io).await?;
                (sender, tokio::spawn(drive(connection, pool, number)))
            }
        };
        let connection = Connection { number, key, sender, task: task.abort_handle() };
        Ok(Lease { pool: self.clone(), connection: Some(connection), keep: Some(keep) })
    }

    /// An idle connection to the same port, the one that was used last.
    pub(super) fn take(&self, key: &Key) -> Option<Connected> {
        let mut idle = self.0.idle();
        idle.retain(|idle| !idle.connection.sender.is_closed());
        let usable = |idle: &Idle| idle.connection.key == *key && idle.connection.sender.is_ready();
        let at = idle.iter().rposition(usable)?;
        let connection = idle.remove(at)?.connection;
        Some(Connected { pool: self.clone(), connection })
    }

    fn give(&self, connection: Connection) {
        let mut idle = self.0.idle();
        // Looked at under the lock: the task takes its connection out when it ends, which may have
        // been just now.
        if connection.sender.is_closed() {
            return;
        }
        let alike = idle.iter().filter(|idle| idle.connection.key == connection.key);
        if alike.count() >= IDLE_PER_PORT
            && let Some(at) = idle.iter().position(|idle| idle.connection.key == connection.key)
        {
            idle.remove(at);
        }
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: Instant::now() });
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        self.0.idle().len()
    }
}

/// An idle connection that was taken.
#[derive(Debug)]
pub(super) struct Connected {
    pool: Pool,
    connection: Connection,
}

impl Connected {
    /// Makes it serve a request.
    pub(super) fn kept(self, keep: Keep) -> Lease {
        Lease { pool: self.pool, connection: Some(self.connection), keep: Some(keep) }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, number: u64) {
        self.idle().retain(|idle| idle.connection.number != number);
    }

    /// Takes the connection out if it has been idle for too long; else how long it may go on before
    /// it is looked at again.
    fn expire(&self, number: u64) -> Option<Duration> {
        let mut idle = self.idle();
        let Some(at) = idle.iter().position(|idle| idle.connection.number == number) else {
            return Some(self.patience);
        };
        let left =
            self.patience.checked_sub(idle[at].since.elapsed()).filter(|left| !left.is_zero());
        if left.is_none() {
            idle.remove(at);
        }
        left
    }
}

/// Moves the bytes of a connection until it ends or has been idle for too long.
async fn drive(
    connection: impl Future<Output = hyper::Result<()>>,
    pool: Weak<Shared>,
    number: u64,
) {
    let mut connection = pin!(connection);
    let Some(mut wait) = pool.upgrade().map(|pool| pool.patience) else { return };
    loop {
        match timeout(wait, connection.as_mut()).await {
            Ok(ended) => {
                if let Err(error) = ended {
                    tracing::debug!("a connection to a guest ended: {}", base::chain(&error));
                }
                break;
            }
            Err(_) => match pool.upgrade().map(|pool| pool.expire(number)) {
                Some(Some(left)) => wait = left,
                Some(None) | None => return,
            },
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.forget(number);
    }
}

impl Lease {
    /// Sends a request and returns the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.connection {
            Some(connection) => connection.sender.send(request).await,
            // Only a lease that was given away has none.
            None => std::future::pending().await,
        }
    }

    /// The answer has come to its end; the connection is there for the next.
    pub(super) fn give_back(mut self) {
        // What speaks HTTP/2 is never taken again, because only requests that may be sent twice are
        // sent over an idle connection, and gRPC's are not: it would only push others out.
        let reusable = |connection: &mut Connection| connection.key.protocol == Protocol::Http1;
        if let Some(connection) = self.connection.take_if(reusable) {
            self.pool.give(connection);
        }
    }

    /// The connection has become something else; what keeps the sandbox awake is the caller's.
    pub(super) fn into_keep(mut self) -> Option<Keep> {
        self.connection = None;
        self.keep.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
