//! One request of HTTP, plain or encrypted, on a connection of its own.

use std::{io, path::Path, sync::Arc, time::Duration};

use base::trust;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// What is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How long a connection may take to be there.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// Most bytes of an answer that is not the backup itself.
const ANSWER_MAX: usize = 4 << 20;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// Drives the connection; ended when the answer is dropped.
    connection: JoinHandle<()>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An answer that was read.
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: String,
}

impl Client {
    /// One that trusts whom the machine trusts, and those in the file.
    pub(crate) fn new(ca: Option<&Path>) -> io::Result<Self> {
        let more = ca.map(trust::certificates).transpose()?.unwrap_or_default();
        Ok(Self { tls: TlsConnector::from(Arc::new(trust::tls(more)?)) })
    }

    /// Sends the request and waits for the head of its answer.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> io::Result<Answer> {
        let uri = request.uri().clone();
        let stream = timeout(CONNECT_TIME, self.connect(&uri))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if let Some(authority) = uri.authority() {
            let value = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
            request.headers_mut().insert(HOST, value);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // What ends the connection is seen by whoever sends or reads on it.
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        match sender.send_request(request).await {
            Ok(response) => Ok(Answer { response, connection }),
            Err(error) => {
                connection.abort();
                Err(io::Error::other(error))
            }
        }
    }

    async fn connect(&self, uri: &Uri) -> io::Result<Box<dyn Io>> {
        let encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        if !encrypted {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(self.tls.connect(name, stream).await?))
    }
}

impl Answer {
    /// Reads the rest.
    pub(crate) async fn whole(mut self) -> io::Result<Whole> {
        let status = self.response.status();
        let headers = self.response.headers().clone();
        let body = Limited::new(self.response.body_mut(), ANSWER_MAX);
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Whole { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// The next bytes of the body.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
