//! Connections, byte by byte.

use super::*;

/// Sends raw bytes and returns everything until the server closes.
pub(super) async fn raw(mut stream: impl AsyncReadWrite, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    // A reset after the answer is a close, too.
    assert!(read.is_ok() || !answer.is_empty());
    String::from_utf8(answer).unwrap()
}

pub(super) trait AsyncReadWrite:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin
{
}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncReadWrite for T {}

#[tokio::test]
async fn over_the_unix_socket_the_kernel_says_who_asks_and_over_tcp_a_key_does() {
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut socket = LocalSocket::bind(&path, &DataDir::lock(dir.path()).unwrap()).unwrap();
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let unix = Listener::Unix(socket.listener.take().unwrap());
    let unix = tokio::spawn(connections::run(unix, node.router.clone(), stopping.clone()));
    let tcp = tokio::spawn(connections::run(Listener::Tcp(tcp), node.router.clone(), stopping));

    let ask = "GET /users HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = raw(UnixStream::connect(&path).await.unwrap(), ask).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = raw(TcpStream::connect(address).await.unwrap(), ask).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");

    // A client that is refused in the middle of sending still sees why, wherever that was.
    let size = JSON_BODY_MAX + (4 << 20);
    let large = |begin: &str| {
        format!(
            "POST {begin} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\n\
             \r\n{}",
            " ".repeat(size)
        )
    };
    for (route, status) in [
        ("/sandboxes", "413"),
        ("/images/build", "400"),
        ("/no/such/route", "404"),
        ("/sandboxes/none/exec", "404"),
    ] {
        let answer = raw(UnixStream::connect(&path).await.unwrap(), &large(route)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{route}: {answer}");
    }
    let answer = raw(TcpStream::connect(address).await.unwrap(), &large("/sandboxes")).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    // One that waits for leave to send needs none.
    let waiting = "POST /no/such/route HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   content-length: 9\r\nexpect: 100-continue\r\n\r\n";
    let answer = raw(UnixStream::connect(&path).await.unwrap(), waiting).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    // An idle connection does not hold up the end.
    let _idle = TcpStream::connect(address).await.unwrap();
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(unix, tcp) })
        .await
        .unwrap()
        .0
        .unwrap();
}

#[tokio::test]
async fn a_body_that_fails_midway_breaks_the_connection_off() {
    let broken = async || {
        // The second piece is not there at once, so that the first has been sent.
        Body::from_stream(futures_util::stream::unfold(true, async |first| {
            if first {
                return Some((Ok("piece"), false));
            }
            tokio::task::yield_now().await;
            Some((Err(io::Error::other("lost")), false))
        }))
    };
    let router = Router::new().route("/", get(broken));
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(connections::run(Listener::Tcp(tcp), router, stopping));
    let ask = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(TcpStream::connect(address).await.unwrap(), ask).await;
    assert!(answer.contains("chunked") && !answer.contains("\r\n0\r\n"), "{answer}");
}

/// A daemon whose route becomes a WebSocket that says a word and then waits for the end.
async fn upgrading() -> (std::net::SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let orchestrator = Orchestrator::open(settings(dir.path())).await.unwrap();
    let app = App::new(orchestrator, JSON_BODY_MAX);
    let talk = async |upgrade: Upgrade| {
        upgrade.answer(|mut socket, mut stop| async move {
            socket.write_all(b"hello").await.unwrap();
            connections::stopped(&mut stop).await;
            socket.write_all(b"bye").await.unwrap();
        })
    };
    let router = app::surrounded(Router::new().route("/", get(talk)).with_state(app));
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let served = tokio::spawn(connections::run(Listener::Tcp(tcp), router, stopping));
    (address, stop, served)
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn an_upgraded_connection_lives_until_the_daemon_ends_and_not_longer() {
    let (address, stop, served) = upgrading().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(format!("{UPGRADE}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        answer.push(client.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(!served.is_finished());
    stop.send(true).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
    tokio::time::timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
}

#[tokio::test]
async fn pages_of_other_sites_get_no_upgrade() {
    let (address, _stop, _served) = upgrading().await;
    let ask = format!("{UPGRADE}origin: http://evil.example\r\n\r\n");
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 403");
    let ask = UPGRADE.replace("version: 13", "version: 8") + "connection: close\r\n\r\n";
    let answer = raw(TcpStream::connect(address).await.unwrap(), &ask).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("version 13"), "{answer}");
}

/// Tells when it is made and when it is dropped, as a running command would notice.
struct Held(tokio::sync::mpsc::Sender<&'static str>);

impl Held {
    fn new(sender: &tokio::sync::mpsc::Sender<&'static str>) -> Self {
        sender.try_send("held").unwrap();
        Self(sender.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.try_send("dropped");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let (waiting, mut changed) = tokio::sync::mpsc::channel(4);
    let streaming = waiting.clone();
    let handler = move || {
        let held = Held::new(&waiting);
        async move {
            std::future::pending::<()>().await;
            drop(held);
        }
    };
    let stream = async move || {
        let held = Held::new(&streaming);
        Body::from_stream(futures_util::stream::unfold(held, async |held| {
            std::future::pending::<()>().await;
            Some((Ok::<_, io::Error>("never"), held))
        }))
    };
    let router = Router::new().route("/handler", get(handler)).route("/stream", get(stream));
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(connections::run(Listener::Tcp(tcp), router, stopping));
    for path in ["/handler", "/stream"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        assert_eq!(changed.recv().await, Some("held"), "{path}");
        if path == "/stream" {
            client.readable().await.unwrap();
        }
        drop(client);
        let noticed = tokio::time::timeout(Duration::from_secs(5), changed.recv()).await;
        assert_eq!(noticed, Ok(Some("dropped")), "{path}");
    }
}
