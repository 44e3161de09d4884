use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use api::headers::TOKEN;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue},
    routing::any,
};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use orchestrator::testing::registered;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tower::ServiceExt as _;

use super::*;
use crate::{
    auth::Peer,
    testing::{PATIENCE, Served, failure, whole},
};

mod servers;

/// Credentials of a guest's own.
const BASIC: &str = "Basic dXNlcjpwYXNz";

async fn served() -> Served {
    let (served, agent) = Served::new().await;
    tokio::spawn(agent.serve_tunnels());
    served
}

/// A server in the sandbox.
async fn server(router: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// A server that handles each connection, given its number, as it likes.
async fn raw_server<F>(handle: impl Fn(TcpStream, u32) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(handle(stream, number));
        }
    });
    port
}

/// Reads to the end of a head and gives it with what came after it.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        if timeout(PATIENCE, stream.read_buf(&mut read)).await.unwrap().unwrap_or_default() == 0 {
            return None;
        }
    }
    Some(String::from_utf8(read).unwrap())
}

/// Says what it was asked.
async fn echo(request: Request) -> (HeaderMap, String) {
    let (parts, body) = request.into_parts();
    let mut said = HeaderMap::new();
    for (name, value) in &parts.headers {
        let name: axum::http::HeaderName = format!("got-{name}").parse().unwrap();
        said.append(name, value.clone());
    }
    said.insert("connection", HeaderValue::from_static("x-hop"));
    said.insert("x-hop", HeaderValue::from_static("1"));
    let body = body.collect().await.unwrap().to_bytes();
    (said, format!("{} {} {}", parts.method, parts.uri, body.len()))
}

fn proxied(port: u16, path: &str) -> String {
    format!("/sandboxes/box/proxy/{port}{path}")
}

async fn text(response: hyper::Response<Incoming>) -> String {
    String::from_utf8(whole(response).await).unwrap()
}

#[tokio::test]
async fn requests_reach_the_server_as_they_were_sent() {
    let (served, port) = (served().await, server(Router::new().fallback(echo)).await);
    for path in ["/", "/a%2Fb//%2e%2E/c?q=%20&x", "/?", "//", "/%ff"] {
        let response = served.get(&proxied(port, path)).await;
        assert_eq!(text(response).await, format!("GET {path} 0"));
    }
    let request = served.request("PATCH", &proxied(port, "/x")).header("cookie", "a=b");
    let request = request.header("x-forwarded-for", "10.0.0.1").header("accept", "x");
    let response = served.send(request.body("four".into()).unwrap()).await;
    let got = response.headers().clone();
    assert_eq!(text(response).await, "PATCH /x 4");
    assert_eq!(got["got-host"], format!("localhost:{port}"));
    assert_eq!(got["got-x-forwarded-host"], served.address.to_string());
    assert_eq!(got["got-x-forwarded-for"], "10.0.0.1, 127.0.0.1");
    assert_eq!(got["got-x-forwarded-proto"], "http");
    assert_eq!(
        (&got["got-cookie"], &got["got-content-length"]),
        (&HeaderValue::from_static("a=b"), &HeaderValue::from_static("4"),)
    );
    for absent in ["got-authorization", "got-x-bhatti-token", "x-hop"] {
        assert!(!got.contains_key(absent), "{absent}");
    }
    assert!(got.contains_key(api::headers::VERSION));
}

#[tokio::test]
async fn a_path_without_its_slash_is_sent_there() {
    let (served, port) = (served().await, server(Router::new().fallback(echo)).await);
    let response = served.get(&proxied(port, "?a=b")).await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()["location"], format!("{port}/?a=b"));
    let request = served.request("POST", &proxied(port, "?a=b"));
    let response = served.send(request.body("x".into()).unwrap()).await;
    assert_eq!(text(response).await, "POST /?a=b 1");
}

/// Who asks, with which token and `Authorization`s, and what of the latter the guest gets.
type Case<'a> = (Peer, Option<&'a str>, &'a [&'a str], Result<&'a [&'a str], ErrorCode>);

#[tokio::test]
async fn a_key_decides_and_stays_here_and_other_credentials_pass() {
    let (served, port) = (served().await, server(Router::new().fallback(echo)).await);
    let admin = served.app.store.admin().unwrap();
    let of_admin = registered(&served.app.orchestrator, &admin.id, "admins").await;
    tokio::spawn(of_admin.serve_tunnels());
    let (root, stranger) = (Peer::Local { uid: 0 }, Peer::Local { uid: served.app.own_uid + 9 });
    let key = served.key.as_str();
    let bearer = format!("Bearer {key}");
    let tabbed = format!("bearer\t {key}");
    let (bearer, tabbed) = (bearer.as_str(), tabbed.as_str());
    let (jwt, other, wrong) = ("Bearer ey.J", "Bearer bht_other", "bht_wrong");
    let unknown = Err(ErrorCode::InvalidApiKey);
    let keyless = Err(ErrorCode::Unauthorized);
    let cases: &[Case<'_>] = &[
        (Peer::Tcp, None, &[bearer], Ok(&[])),
        (Peer::Tcp, None, &[tabbed], Ok(&[])),
        (Peer::Tcp, None, &[BASIC, bearer], Ok(&[BASIC])),
        (Peer::Tcp, Some(key), &[], Ok(&[])),
        (Peer::Tcp, Some(key), &[BASIC], Ok(&[BASIC])),
        (Peer::Tcp, Some(key), &[jwt, BASIC], Ok(&[jwt, BASIC])),
        (Peer::Tcp, Some(key), &[other], Ok(&[other])),
        (Peer::Tcp, Some(key), &[bearer], Ok(&[])),
        (stranger, Some(key), &[BASIC], Ok(&[BASIC])),
        (Peer::Tcp, Some(wrong), &[bearer], unknown.clone()),
        (Peer::Tcp, Some(""), &[bearer], unknown.clone()),
        (Peer::Tcp, None, &[other], unknown.clone()),
        (Peer::Tcp, None, &[other, bearer], unknown.clone()),
        (Peer::Tcp, None, &[BASIC], keyless.clone()),
        (Peer::Tcp, None, &[jwt], keyless.clone()),
        (Peer::Tcp, None, &[], keyless.clone()),
        (stranger, None, &[BASIC], keyless.clone()),
        (root, None, &[], Ok(&[])),
        (root, None, &[BASIC], Ok(&[BASIC])),
        (root, None, &[jwt], Ok(&[jwt])),
        (root, None, &[other], unknown.clone()),
        (root, Some(wrong), &[BASIC], unknown.clone()),
    ];
    for (peer, token, sent, expected) in cases {
        let name = if *peer == root { "admins" } else { "box" };
        let mut request = Request::builder().uri(format!("/sandboxes/{name}/proxy/{port}/"));
        for value in *sent {
            request = request.header("authorization", *value);
        }
        if let Some(token) = token {
            request = request.header(TOKEN, *token);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(*peer);
        let response = served.router.clone().oneshot(request).await.unwrap();
        let got = response.headers().get_all("got-authorization");
        let got: Vec<String> = got.iter().map(|v| v.to_str().unwrap().to_owned()).collect();
        let token_passed = response.headers().contains_key("got-x-bhatti-token");
        assert!(!token_passed);
        match expected {
            Ok(expected) => assert_eq!(got, *expected, "{peer:?} {token:?} {sent:?}"),
            Err(code) => {
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let body: api::ErrorBody = serde_json::from_slice(&body).unwrap();
                assert_eq!(body.code, *code, "{peer:?} {token:?} {sent:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_a_key_everywhere_and_decides_first() {
    let served = served().await;
    let ask = async |token: &str, authorization: Option<&str>| {
        let mut request = Request::builder().uri("/sandboxes").header(TOKEN, token);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Body::empty()).unwrap();
        served.router.clone().oneshot(request).await.unwrap().status()
    };
    let right = format!("Bearer {}", served.key);
    assert_eq!(ask(&served.key, None).await, StatusCode::OK);
    assert_eq!(ask(&served.key, Some(BASIC)).await, StatusCode::OK);
    assert_eq!(ask("bht_wrong", Some(&right)).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn uploads_flow_whatever_their_size() {
    let (served, port) = (served().await, server(Router::new().fallback(echo)).await);
    const SIZE: usize = 10 << 20;
    for method in ["POST", "PUT", "GET"] {
        let pieces = std::iter::repeat_n(Bytes::from(vec![7; 10_000]), SIZE / 10_000 + 1);
        let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)));
        let request = served.request(method, &proxied(port, "/up"));
        // Said, because the client leaves the body of a GET away otherwise.
        let request = request.header("transfer-encoding", "chunked").body(body).unwrap();
        let expected = format!("{method} /up {}", (SIZE / 10_000 + 1) * 10_000);
        assert_eq!(text(served.send(request).await).await, expected);
    }
    let request = served.request("POST", &proxied(port, "/up")).header("expect", "100-continue");
    let response = served.send(request.body(vec![1; SIZE].into()).unwrap()).await;
    assert_eq!(response.headers()["got-content-length"], SIZE.to_string());
    assert!(!response.headers().contains_key("got-expect"));
    assert_eq!(text(response).await, format!("POST /up {SIZE}"));
}

/// Tells when it is made and when it is dropped.
struct Told(mpsc::Sender<()>);

impl Told {
    fn new(sender: &mpsc::Sender<()>) -> Self {
        sender.try_send(()).unwrap();
        Self(sender.clone())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn events_come_at_once_and_a_client_that_leaves_ends_them() {
    let served = served().await;
    let (gone, mut left) = mpsc::channel(4);
    let events = move || {
        let told = Told::new(&gone);
        async move {
            let first = stream::iter([Ok::<_, std::io::Error>("data: 1\n\n")]);
            let rest = stream::unfold(told, async |told| {
                std::future::pending::<()>().await;
                Some((Ok("never"), told))
            });
            ([("content-type", "text/event-stream")], Body::from_stream(first.chain(rest)))
        }
    };
    let (held, mut let_go) = mpsc::channel(4);
    let never = move || {
        let told = Told::new(&held);
        async move {
            std::future::pending::<()>().await;
            drop(told);
        }
    };
    let router = Router::new().route("/events", any(events)).route("/never", any(never));
    let port = server(router).await;
    let mut connection = served.connect().await;
    let request = served.request("GET", &proxied(port, "/events")).body(Body::empty()).unwrap();
    let response = timeout(PATIENCE, connection.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
    timeout(PATIENCE, left.recv()).await.unwrap().unwrap();
    drop((body, connection));
    timeout(PATIENCE, left.recv()).await.unwrap().unwrap();

    // The same before there is any answer.
    let mut connection = TcpStream::connect(served.address).await.unwrap();
    let ask = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\n{TOKEN}: {}\r\n\r\n",
        proxied(port, "/never"),
        served.key
    );
    connection.write_all(ask.as_bytes()).await.unwrap();
    let user = served.app.store.user_by_key(&served.key).unwrap();
    let sandbox = served.app.orchestrator.find(&user.id, "box").unwrap();
    timeout(PATIENCE, let_go.recv()).await.unwrap().unwrap();
    assert_eq!(sandbox.activity().tunnels, 1);
    drop(connection);
    timeout(PATIENCE, let_go.recv()).await.unwrap().unwrap();
    assert_eq!((sandbox.activity().tunnels, served.app.pool.idle()), (0, 0));
}

#[tokio::test]
async fn websockets_pass() {
    let served = served().await;
    let port = raw_server(async |stream, _| {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(Message::text("welcome")).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    })
    .await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let uri = format!("ws://{}{}", served.address, proxied(port, "/ws"));
    let mut request = uri.into_client_request().unwrap();
    request.headers_mut().insert(TOKEN, served.key.parse().unwrap());
    let connecting = timeout(PATIENCE, tokio_tungstenite::client_async(request, stream));
    let (mut socket, response) = connecting.await.unwrap().unwrap();
    assert!(response.headers().contains_key(api::headers::VERSION));
    let large = Message::binary(vec![9; 1 << 20]);
    for message in [Message::text("hello"), large.clone()] {
        socket.send(message).await.unwrap();
    }
    for expected in [Message::text("welcome"), Message::text("hello"), large] {
        let got = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(got == expected);
    }
    socket.close(None).await.unwrap();
    while timeout(PATIENCE, socket.next()).await.unwrap().is_some_and(|got| got.is_ok()) {}
}

#[tokio::test]
async fn what_comes_with_an_upgrade_is_not_lost_and_each_side_ends_by_itself() {
    let served = served().await;
    let port = raw_server(async |mut stream, _| {
        let mut asked = head(&mut stream).await.unwrap();
        assert!(asked.contains("upgrade: raw"), "{asked}");
        let answer = "HTTP/1.1 101 Go\r\nupgrade: raw\r\nconnection: upgrade\r\n\r\nfirst,";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.read_to_string(&mut asked).await.unwrap();
        let (_, said) = asked.split_once("\r\n\r\n").unwrap();
        stream.write_all(format!("{said},last").as_bytes()).await.unwrap();
    })
    .await;
    let mut client = TcpStream::connect(served.address).await.unwrap();
    let ask = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\n{TOKEN}: {}\r\nconnection: upgrade\r\nupgrade: raw\r\n\
         \r\nearly",
        proxied(port, ""),
        served.key
    );
    client.write_all(ask.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = String::new();
    timeout(PATIENCE, client.read_to_string(&mut got)).await.unwrap().unwrap();
    assert!(got.starts_with("HTTP/1.1 101"), "{got}");
    assert!(got.ends_with("\r\n\r\nfirst,early,last"), "{got}");
}

#[tokio::test]
async fn an_upgrade_that_the_server_does_not_want_is_a_request() {
    let (served, port) = (served().await, server(Router::new().fallback(echo)).await);
    let request = served.request("GET", &proxied(port, "/"));
    let request = request.header("connection", "upgrade").header("upgrade", "chat");
    let response = served.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["got-upgrade"], "chat");
    assert_eq!(text(response).await, "GET / 0");
}

#[tokio::test]
async fn nobody_changes_to_a_protocol_in_which_requests_follow() {
    let (served, port) = (served().await, server(Router::new().fallback(echo)).await);
    for protocols in ["h2c", "chat, H2C", "TLS/1.0"] {
        let request = served.request("GET", &proxied(port, "/"));
        let request = request.header("connection", "upgrade, http2-settings");
        let request = request.header("http2-settings", "AAMAAABk").header("upgrade", protocols);
        let response = served.send(request.body(Body::empty()).unwrap()).await;
        assert!(!response.headers().contains_key("got-upgrade"), "{protocols}");
    }
}
