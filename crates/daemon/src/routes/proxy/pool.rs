//! Connections to servers in sandboxes, kept for the next request.
//!
//! ```text
//!   Lease ── request ──► Connection ─ task ─► tunnel ─► server
//!     │ given back: idle, keeps nothing awake        ▲
//!     ▼                                              │
//!   Pool ── taken: a lease again, with a hold ───────┘
//! ```
//! An idle connection does not keep its sandbox awake: the hold is the lease's. It ends by itself
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
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use orchestrator::{Hold, Tunnel};
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Most idle connections to one port.
const IDLE_PER_PORT: usize = 8;
/// Most idle connections altogether.
const IDLE_MAX: usize = 64;

/// What connections are alike in: the sandbox's id and the port.
pub(super) type Key = (String, u16);

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
    sender: SendRequest<Body>,
    task: AbortHandle,
}

/// A connection for one request. Dropped, it ends, and the server learns that nobody listens.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Pool,
    connection: Option<Connection>,
    hold: Option<Hold>,
}

impl Pool {
    fn with_patience(patience: Duration) -> Self {
        let (idle, numbers) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Shared { idle, numbers, patience }))
    }

    /// Makes a connection of a tunnel.
    pub(super) async fn connect(&self, key: Key, mut tunnel: Tunnel) -> hyper::Result<Lease> {
        let hold = tunnel.take_hold();
        let (sender, connection) = http1::handshake(TokioIo::new(tunnel)).await?;
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let pool = Arc::downgrade(&self.0);
        let task = tokio::spawn(drive(connection, pool, number)).abort_handle();
        let connection = Connection { number, key, sender, task };
        Ok(Lease { pool: self.clone(), connection: Some(connection), hold })
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
    pub(super) fn idle(&self) -> usize {
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
    pub(super) fn held(self, hold: Hold) -> Lease {
        Lease { pool: self.pool, connection: Some(self.connection), hold: Some(hold) }
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
    connection: http1::Connection<TokioIo<Tunnel>, Body>,
    pool: Weak<Shared>,
    number: u64,
) {
    let mut connection = pin!(connection.with_upgrades());
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
            Some(connection) => connection.sender.send_request(request).await,
            // Only a lease that was given away has none.
            None => std::future::pending().await,
        }
    }

    /// The answer has come to its end; the connection is there for the next.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give(connection);
        }
    }

    /// The connection has become something else; what keeps the sandbox awake is the caller's.
    pub(super) fn into_hold(mut self) -> Option<Hold> {
        self.connection = None;
        self.hold.take()
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
mod tests {
    use orchestrator::{model::Caller, testing};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::testing::PATIENCE;

    /// A server that answers whatever comes and tells when a connection has ended.
    async fn server() -> (u16, tokio::sync::mpsc::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, ended) = tokio::sync::mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut chunk = [0; 4096];
                    while stream.read(&mut chunk).await.unwrap_or_default() > 0 {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                    let _ = sender.send(()).await;
                });
            }
        });
        (port, ended)
    }

    async fn lease(pool: &Pool, sandbox: &orchestrator::Sandbox, port: u16) -> Lease {
        let tunnel = sandbox.tunnel(Caller::Owner, port).await.unwrap();
        let mut lease = pool.connect(("id".to_owned(), port), tunnel).await.unwrap();
        let request = Request::builder().uri("/").header("host", "x").body(Body::empty()).unwrap();
        let answer = timeout(PATIENCE, lease.send(request)).await.unwrap().unwrap();
        assert!(answer.status().is_success());
        lease
    }

    async fn sandbox() -> orchestrator::Sandbox {
        let (sandbox, agent) = testing::sandbox_of_nobody().await;
        tokio::spawn(agent.serve_tunnels());
        sandbox
    }

    #[tokio::test]
    async fn what_is_idle_keeps_nothing_awake_and_ends() {
        let (sandbox, (port, mut ended)) = (sandbox().await, server().await);
        let pool = Pool::with_patience(Duration::from_millis(100));
        let lease = lease(&pool, &sandbox, port).await;
        assert_eq!(sandbox.activity().tunnels, 1);
        lease.give_back();
        assert_eq!((sandbox.activity().tunnels, pool.idle()), (0, 1));
        assert!(pool.take(&("other".to_owned(), port)).is_none());
        timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
        assert_eq!(pool.idle(), 0);
    }

    #[tokio::test]
    async fn a_lease_that_is_dropped_ends_its_connection() {
        let (sandbox, (port, mut ended)) = (sandbox().await, server().await);
        let pool = Pool::default();
        drop(lease(&pool, &sandbox, port).await);
        timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
        assert_eq!((sandbox.activity().tunnels, pool.idle()), (0, 0));
    }

    #[tokio::test]
    async fn no_more_than_a_few_are_kept() {
        let (sandbox, (port, mut ended)) = (sandbox().await, server().await);
        let pool = Pool::default();
        let mut leases = Vec::new();
        for _ in 0..IDLE_PER_PORT + 2 {
            leases.push(lease(&pool, &sandbox, port).await);
        }
        leases.into_iter().for_each(Lease::give_back);
        assert_eq!(pool.idle(), IDLE_PER_PORT);
        for _ in 0..2 {
            timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
        }
        // The pool going away takes them along.
        drop(pool);
        for _ in 0..IDLE_PER_PORT {
            timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
        }
    }
}
