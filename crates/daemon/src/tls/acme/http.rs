//! The way to the authority: HTTPS with what the daemon has anyway, a connection for each request.

use std::{future::Future, io, path::Path, pin::Pin, sync::Arc, time::Duration};

use base::trust;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// How long one request may take.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;

/// Asks whoever proves to be whom the URL names.
#[derive(Clone)]
pub(super) struct Https(TlsConnector);

impl Https {
    /// One that trusts whom the machine trusts, and those in the file.
    pub(super) fn new(ca: Option<&Path>) -> io::Result<Self> {
        let more = ca.map(trust::certificates).transpose()?.unwrap_or_default();
        Ok(Self(TlsConnector::from(Arc::new(trust::tls(more)?))))
    }

    async fn ask(
        self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> io::Result<Response<Full<Bytes>>> {
        let uri = request.uri().clone();
        let (Some(host), Some("https")) = (uri.host(), uri.scheme_str()) else {
            return Err(io::Error::other(format!("{uri} does not begin with https://")));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = self.0.connect(name, stream).await?;
        if let Some(authority) = uri.authority() {
            let value = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
            request.headers_mut().insert(HOST, value);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(io::Error::other)?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
        };
        // The connection is driven for as long as its answer is read.
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => return answer,
            ended = connection => ended.map_err(io::Error::other)?,
        }
        answered.await
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let asked = timeout(REQUEST_TIME, self.clone().ask(request));
        Box::pin(async move {
            let answer = asked.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let told = |error: io::Error| {
                let why = base::chain(&error);
                Error::Other(format!("{host} cannot be asked: {why}").into())
            };
            answer.map(BytesResponse::from).map_err(told)
        })
    }
}
