//! HTTP/2, gRPC, WebSockets and TLS.

use bytes::Bytes;
use http_body_util::{Full, StreamBody};
use hyper::{
    body::Frame, client::conn::http2::SendRequest, server::conn::http2, service::service_fn,
};
use hyper_util::rt::TokioExecutor;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{connections::HTTP2, tls::Certificates};

type Http2 = SendRequest<Full<Bytes>>;

async fn http2(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Http2 {
    let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io));
    let (sender, connection) = connecting.await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(uri: &str) -> hyper::http::request::Builder {
    Request::builder().uri(uri)
}

/// A server that speaks HTTP/2 only, and answers with what it got and trailers.
async fn grpc() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: Request<Incoming>| {
                let authority = request.uri().authority().unwrap().to_string();
                let te = request.headers()["te"].clone();
                let mut body = request.into_body();
                let mut trailers = HeaderMap::new();
                let mut frames = Vec::new();
                while let Some(frame) = body.frame().await {
                    match frame.unwrap().into_data() {
                        Ok(data) => {
                            frames.push(Ok::<_, std::convert::Infallible>(Frame::data(data)));
                        }
                        Err(frame) => trailers.extend(frame.into_trailers().unwrap()),
                    }
                }
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                frames.push(Ok(Frame::trailers(trailers)));
                let body = StreamBody::new(futures_util::stream::iter(frames));
                let response = hyper::Response::builder()
                    .header("content-type", "application/grpc")
                    .header("got-authority", authority)
                    .header("got-te", te);
                Ok::<_, hyper::http::Error>(response.body(body).unwrap())
            });
            let serving = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

#[tokio::test]
async fn grpc_reaches_a_server_that_speaks_nothing_else() {
    let site = Site::new().await;
    site.web("rpc", grpc().await).await;
    let mut client = http2(TcpStream::connect(site.address).await.unwrap()).await;
    for _ in 0..3 {
        let call = request("http://rpc.pub.example/pkg.Service/Method").method("POST");
        let call = call.header("content-type", "application/grpc+proto").header("te", "trailers");
        let call = call.body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi"))).unwrap();
        let response = timeout(PATIENCE, client.send_request(call)).await.unwrap().unwrap();
        assert_eq!(response.headers()["got-authority"], "rpc.pub.example");
        assert_eq!(response.headers()["got-te"], "trailers");
        let collected = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), Bytes::from_static(b"\0\0\0\0\x02hi"));
        assert_eq!(site.served.app.pool.idle(), 0, "what nobody can take again is kept");
    }
}

#[tokio::test]
async fn clients_speak_http2_with_servers_that_do_not() {
    let site = Site::new().await;
    site.web("web", echoing().await).await;
    let mut client = http2(TcpStream::connect(site.address).await.unwrap()).await;
    let sent =
        request("http://web.pub.example/a%2Fb?x").header("cookie", "a=1").header("cookie", "b=2");
    let response = client.send_request(sent.body(Full::default()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "GET /a%2Fb?x 0");
    assert_eq!(
        (got(&head, "host"), got(&head, "cookie")),
        (Some("web.pub.example"), Some("a=1; b=2"))
    );
    let sent = request("http://web.pub.example/").method("POST");
    let sent = sent.body(Full::new(Bytes::from(vec![7; 1 << 20]))).unwrap();
    let response = client.send_request(sent).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "POST / 1048576");
    // Said twice, which is once.
    let sent = request("http://web.pub.example/").method("POST");
    let sent = sent.header("content-length", "2").header("content-length", "2");
    let response = client.send_request(sent.body(Full::from("hi")).unwrap()).await.unwrap();
    assert_eq!(response.headers().get_all("got-content-length").iter().count(), 1);
    let none = request("http://none.pub.example/").body(Full::default()).unwrap();
    assert_eq!(client.send_request(none).await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_connection_that_is_upgraded_carries_bytes_both_ways() {
    let site = Site::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    site.web("ws", port).await;
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let response = site.get("ws", "/", &headers).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "x");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(&[0, 0xff, 7]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, [0, 0xff, 7]);
}

/// The daemon with TLS by its own authority, and what a client trusts.
async fn encrypted() -> (Site, SocketAddr, Arc<RootCertStore>) {
    let site = Site::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = crate::Config {
        data_dir: dir.path().to_owned(),
        socket: dir.path().join("api.sock"),
        listen: None,
        tls: TlsSource::Off,
        public: Some(PublicConfig { tls: TlsSource::LocalCa, ..config() }),
        acme: None,
        json_body_max: 0,
        sandbox: crate::SandboxDefaults::default(),
        network: None,
        backups: orchestrator::backups::BackupSettings::default(),
        images: orchestrator::images::ImageSettings::default(),
    };
    let certificates = Certificates::new(&config).unwrap();
    let pem = fs_err::read(crate::certificate_path(dir.path())).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (orchestrator, pool) = (&site.served.app.orchestrator, &site.served.app.pool);
    let public = config.public.unwrap();
    let public = PublicListener::new(&public, listener, orchestrator, pool, &[]).unwrap();
    let (address, service) = (public.address, public.service(certificates.public));
    let stop = site.stop.subscribe();
    tokio::spawn(connections::run(Listener::Tcp(public.listener), service, stop));
    (site, address, Arc::new(roots))
}

async fn tls(
    address: SocketAddr,
    roots: &Arc<RootCertStore>,
    name: &str,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(Arc::clone(roots));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn a_zone_has_a_certificate_for_every_alias_and_http2_is_agreed_on() {
    let (site, address, roots) = encrypted().await;
    site.web("web", echoing().await).await;
    let stream = tls(address, &roots, "web.pub.example", &[HTTP2]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(HTTP2));
    let mut client = http2(stream).await;
    let sent = request("https://web.pub.example/x").body(Full::default()).unwrap();
    let (head, body) = client.send_request(sent).await.unwrap().into_parts();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "GET /x 0");
    assert_eq!(got(&head, "x-forwarded-proto"), Some("https"));
    let other = request("https://other.pub.example/").body(Full::default()).unwrap();
    assert_eq!(client.send_request(other).await.unwrap().status(), 421);
    // Any name of this host has one, too; nobody who trusts others only comes in.
    tls(address, &roots, "localhost", &[]).await.unwrap();
    let nobody = Arc::new(RootCertStore::empty());
    tls(address, &nobody, "web.pub.example", &[]).await.unwrap_err();
}

#[tokio::test]
async fn http1_over_tls_is_upgraded_like_any_other() {
    let (site, address, roots) = encrypted().await;
    site.web("web", echoing().await).await;
    let mut stream = tls(address, &roots, "web.pub.example", &[]).await.unwrap();
    let head = b"GET /x HTTP/1.1\r\nhost: web.pub.example\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ") && answer.ends_with("get /x 0"), "{answer}");
    assert!(answer.contains("got-x-forwarded-proto: https"), "{answer}");
}
