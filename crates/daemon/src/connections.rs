//! Accepting connections, serving HTTP on them and whatever they are upgraded to, and ending without
//! cutting answers short.
//!
//! ```text
//! accept ─► TLS, if there is ─► HTTP/2, if it is spoken, or HTTP/1.1 ─► router
//!                                                          └─► Handover: a byte stream
//! ```

use std::{
    future::Future,
    io,
    net::IpAddr,
    os::fd::AsFd,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use hyper::{body::Incoming, header::UPGRADE, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tower::Service as _;

use self::lingering::Lingering;
pub(crate) use self::per_client::{PerClient, network};
use crate::{auth::Peer, tls::Tls};

mod http2;
mod lingering;
mod per_client;

/// Most connections of one listener; further ones wait in its backlog.
pub(crate) const MAX_CONNECTIONS: usize = 4096;
/// How long a request's head may take, and so how long a connection may idle between requests.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// The same for the first request of a connection, which nobody makes to think it over.
const FIRST_HEAD_TIME: Duration = Duration::from_secs(20);
/// Most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// HTTP/2 as TLS calls it.
pub(crate) const HTTP2: &[u8] = b"h2";
/// HTTP/1.1 as TLS calls it.
pub(crate) const HTTP1: &[u8] = b"http/1.1";
/// What a client begins with that speaks HTTP/2 without asking, and no request of HTTP/1.1.
const HTTP2_BEGINS: &[u8; 6] = b"PRI * ";
/// How long requests may take to end after the daemon was told to.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long to let be when the host has no descriptors or memory for another connection.
const PRESSURE_TIME: Duration = Duration::from_millis(200);

/// Either listener.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
enum Connection {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream, Peer),
}

/// Where a request over TCP comes from, put on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address(pub(crate) IpAddr);

/// Tells a request that the daemon ends; put on every one.
#[derive(Debug, Clone)]
pub(crate) struct Ending(watch::Receiver<bool>);

impl Ending {
    /// Waits until the daemon ends.
    pub(crate) async fn begins(mut self) {
        stopped(&mut self.0).await;
    }
}

/// On every request over an encrypted connection, with the name that the client asked for.
#[derive(Debug, Clone)]
pub(crate) struct Secure(Option<Arc<str>>);

impl Secure {
    /// The name that the client asked for.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are small and somebody waits for each.
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream, address.ip()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok(Connection::Unix(stream, Peer::Local { uid }))
            }
        }
    }
}

/// What a listener's connections get.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) router: Router,
    /// How they are encrypted, if they are.
    pub(crate) tls: Option<Tls>,
    /// Whether HTTP/2 is spoken with those who begin with it.
    pub(crate) http2: bool,
    /// Most connections of one client; with addresses of whom it does not count.
    pub(crate) per_client: Option<PerClient>,
}

impl From<Router> for Service {
    /// Plain HTTP/1.1.
    fn from(router: Router) -> Self {
        Self { router, tls: None, http2: false, per_client: None }
    }
}

/// Serves until `stop` says so, then drains.
pub(crate) async fn run(
    listener: Listener,
    service: impl Into<Service>,
    mut stop: watch::Receiver<bool>,
) {
    let service = service.into();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok(Connection::Tcp(stream, address)) => {
                let place = match service.per_client.as_ref().map(|all| all.take(address)) {
                    Some(None) => continue,
                    Some(place) => place,
                    None => None,
                };
                let (address, ending) = (Some(Address(address)), Ending(stop.clone()));
                let from = Whence { peer: Peer::Tcp, address, secure: None, ending };
                let serving = serve_tcp(stream, from, service.clone(), stop.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Ok(Connection::Unix(stream, peer)) => {
                let ending = Ending(stop.clone());
                let from = Whence { peer, address: None, secure: None, ending };
                let (router, stop) = (service.router.clone(), stop.clone());
                connections.spawn(async move {
                    let line = Line::of(&stream);
                    serve_http1(stream, line, from, router, stop).await;
                });
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::warn!("accepting connections fails: {error}");
                let _ = timeout(PRESSURE_TIME, stopped(&mut stop)).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIME, drained).await.is_err() {
        tracing::warn!(requests = connections.len(), "requests were cut off at the end");
        connections.shutdown().await;
    }
}

/// Lets be when the host has no descriptors or memory for another connection.
pub(crate) async fn let_be() {
    let _ = timeout(PRESSURE_TIME, std::future::pending::<()>()).await;
}

/// Where a connection's requests come from.
#[derive(Debug, Clone)]
struct Whence {
    peer: Peer,
    address: Option<Address>,
    secure: Option<Secure>,
    ending: Ending,
}

impl Whence {
    fn put_on(&self, request: &mut Request<Incoming>) {
        let extensions = request.extensions_mut();
        extensions.insert(self.peer);
        extensions.insert(self.ending.clone());
        if let Some(address) = self.address {
            extensions.insert(address);
        }
        if let Some(secure) = &self.secure {
            extensions.insert(secure.clone());
        }
    }
}

async fn serve_tcp(
    stream: TcpStream,
    mut from: Whence,
    service: Service,
    mut stop: watch::Receiver<bool>,
) {
    let line = Line::of(&stream);
    let Some(tls) = service.tls else {
        let http2 = tokio::select! {
            () = stopped(&mut stop), if service.http2 => return,
            http2 = begins_with_http2(&stream), if service.http2 => http2,
            else => Some(false),
        };
        return match http2 {
            Some(true) => http2::serve(stream, from, service.router, stop).await,
            Some(false) => serve_http1(stream, line, from, service.router, stop).await,
            None => tracing::debug!("a client says nothing"),
        };
    };
    let shaken = tokio::select! {
        () = stopped(&mut stop) => return,
        shaken = tls.accept(stream) => shaken,
    };
    let stream = match shaken {
        Ok(Some(stream)) => stream,
        Ok(None) => return tracing::debug!("an authority looked whether a name is ours"),
        Err(error) => return tracing::debug!("no TLS: {error}"),
    };
    let session = stream.get_ref().1;
    from.secure = Some(Secure(session.server_name().map(Into::into)));
    match session.alpn_protocol() == Some(HTTP2) {
        true => http2::serve(stream, from, service.router, stop).await,
        false => serve_http1(stream, line, from, service.router, stop).await,
    }
}

/// Whether the client begins with HTTP/2 without asking; its first words come in one piece. `None` if
/// none come in time.
async fn begins_with_http2(stream: &TcpStream) -> Option<bool> {
    let mut first = [0; HTTP2_BEGINS.len()];
    let peeked = timeout(FIRST_HEAD_TIME, stream.peek(&mut first)).await.ok()?;
    Some(peeked.is_ok() && first == *HTTP2_BEGINS)
}

/// By way of this, put on every request, a connection is given away: what it is upgraded to is
/// served by its own task, counts like any other connection, and ends with the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    next: mpsc::Sender<Upgraded>,
    stop: watch::Receiver<bool>,
}

/// What goes on over a connection that is no longer HTTP.
type Upgraded = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Handover {
    /// Gives the connection away once its request is answered. What it is given to is told when the
    /// daemon ends. False if it is given away already.
    pub(crate) fn give<F>(&self, to: impl FnOnce(watch::Receiver<bool>) -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.next.try_send(Box::pin(to(self.stop.clone()))).is_ok()
    }

    /// Gives the connection to something that may be cut off when the daemon ends: nobody can tell
    /// when a byte stream has come to a good end.
    pub(crate) fn run(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        self.give(|mut stop| async move {
            tokio::select! {
                () = work => {}
                () = stopped(&mut stop) => {}
            }
        })
    }
}

async fn serve_http1(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    line: io::Result<Line>,
    from: Whence,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let line = match line {
        Ok(line) => line,
        Err(error) => return tracing::warn!("a connection cannot be watched: {error}"),
    };
    let has_address = from.address.is_some();
    let (began, mut begins) = watch::channel(());
    let (next, mut given) = mpsc::channel(1);
    let handover = Handover { next, stop: stop.clone() };
    // Of a connection that becomes a byte stream, either direction may end by itself.
    let becomes_stream = Arc::new(AtomicBool::new(false));
    let upgrade_asked = Arc::clone(&becomes_stream);
    let service = service_fn(move |mut request: Request<Incoming>| {
        began.send_replace(());
        upgrade_asked.store(request.headers().contains_key(UPGRADE), Ordering::Relaxed);
        from.put_on(&mut request);
        request.extensions_mut().insert(handover.clone());
        let (parts, body) = request.into_parts();
        let body = Body::new(Lingering::new(body, &parts.headers));
        router.clone().call(Request::from_parts(parts, body))
    });
    let ended = {
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_MAX)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        );
        let served = async {
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        tokio::select! {
            biased;
            ended = served => ended,
            () = line.hung_up(&becomes_stream) => Ok(()),
            () = says_nothing(&mut begins), if has_address => Ok(()),
        }
    };
    drop(line);
    if let Err(error) = ended {
        tracing::debug!("connection ended: {}", base::chain(&error));
    }
    if let Ok(upgraded) = given.try_recv() {
        upgraded.await;
    }
}

/// Waits in vain for the first request, unless there is one.
async fn says_nothing(begins: &mut watch::Receiver<()>) {
    if timeout(FIRST_HEAD_TIME, begins.changed()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Tells that the other end has hung up, even while nobody reads what it sent before: a command that
/// does not read its input is to end with its client like any other.
struct Line {
    /// Another descriptor of the socket, never read or written. For being watched any family is
    /// as good as this one.
    socket: UnixStream,
}

impl Line {
    fn of(io: &impl AsFd) -> io::Result<Self> {
        let socket = io.as_fd().try_clone_to_owned()?;
        UnixStream::from_std(socket.into()).map(|socket| Self { socket })
    }

    async fn hung_up(&self, becomes_stream: &AtomicBool) {
        while let Ok(ready) = self.socket.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                if becomes_stream.load(Ordering::Relaxed) {
                    break;
                }
                return;
            }
            // Waits for the next change.
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, nothing);
        }
        std::future::pending::<()>().await;
    }
}

/// Waits for the word to stop; whoever could give it being gone is the same.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether only the connection that was about to be accepted is lost.
pub(crate) fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | InvalidInput | NotConnected)
}
