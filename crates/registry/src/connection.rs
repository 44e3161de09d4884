//! Connections to addresses that were judged before, with TLS or without.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Origin, Url};

use crate::{
    Error, Patience,
    reach::{Guard, shown},
};

/// No answer has more header lines.
const HEADERS_MAX: usize = 100;
/// Nor are they longer, in bytes; also what is read of a body at once.
const BUFFER: usize = 128 << 10;

/// How many connections of a pull wait for another request.
const IDLE_MAX: usize = 8;

/// Whom to trust: who this host trusts, and `more`.
pub(crate) fn tls(more: Vec<CertificateDer<'static>>) -> io::Result<TlsConnector> {
    Ok(TlsConnector::from(Arc::new(base::trust::tls(more)?)))
}

/// A connection that ends with this value.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Empty<Bytes>>,
    _task: Task,
}

/// What moves a connection's bytes.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connections on which nothing is under way, to be used again.
#[derive(Debug, Default)]
pub(crate) struct Idle(Mutex<Vec<(Origin, Connection)>>);

impl Idle {
    /// A connection to where `url` is that seems to live.
    pub(crate) fn take(&self, url: &Url) -> Option<Connection> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, connection)| !connection.sender.is_closed());
        let at = all.iter().position(|(origin, _)| *origin == url.origin())?;
        Some(all.swap_remove(at).1)
    }

    /// Keeps a connection whose last answer has been read.
    pub(crate) fn keep(&self, url: &Url, connection: Connection) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < IDLE_MAX && !connection.sender.is_closed() {
            all.push((url.origin(), connection));
        }
    }
}

/// Why there is no TLS with somebody.
pub(crate) enum NoTls {
    /// There is no connection, or nobody that is trusted.
    Failed(Error),
    /// Whoever is there does not speak it.
    NotSpoken(Error),
}

/// Connects to where `url` is and makes itself understood as its scheme says.
pub(crate) async fn open(
    guard: &Guard,
    tls: &TlsConnector,
    patience: &Patience,
    url: &Url,
) -> Result<Connection, NoTls> {
    let addresses = guard.addresses(url).await.map_err(NoTls::Failed)?;
    let failed = |reason: String| Error::Unreachable { host: shown(url), reason };
    let stream = connect(&addresses, patience).await.map_err(|e| NoTls::Failed(failed(e)))?;
    let _ = stream.set_nodelay(true);
    if url.scheme() == "http" {
        return handshake(stream).await.map_err(|e| NoTls::Failed(failed(e.to_string())));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|e| NoTls::Failed(failed(e.to_string())))?;
    let stream = match timeout(patience.connect, tls.connect(name, stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(no_tls(&error, failed(error.to_string()))),
        // Somebody may also wait for the end of what is no request.
        Err(_) => return Err(NoTls::NotSpoken(failed("TLS takes too long".to_owned()))),
    };
    handshake(stream).await.map_err(|e| NoTls::Failed(failed(e.to_string())))
}

async fn connect(addresses: &[SocketAddr], patience: &Patience) -> Result<TcpStream, String> {
    let mut reason = String::new();
    for address in addresses {
        match timeout(patience.connect, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => reason = format!("{address}: {error}"),
            Err(_) => reason = format!("{address} does not answer"),
        }
    }
    Err(reason)
}

/// Whether what the other side said first was TLS at all.
fn no_tls(error: &io::Error, reported: Error) -> NoTls {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => NoTls::NotSpoken(reported),
        // Whoever takes the greeting for garbage may just hang up.
        None if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ) =>
        {
            NoTls::NotSpoken(reported)
        }
        _ => NoTls::Failed(reported),
    }
}

async fn handshake<S>(stream: S) -> hyper::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    // An error of the connection is also one of the request that waits for it.
    let task = tokio::spawn(async move { connection.await.is_ok() });
    Ok(Connection { sender, _task: Task(task.abort_handle()) })
}
