//! Requests byte by byte.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use api::ErrorBody;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UnixStream},
    time::timeout,
};

/// Whoever waits for so long waits for ever.
const HANGS: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// What follows, as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as an error.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn error(&self) -> ErrorBody {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The head of a request with these further header lines.
pub fn head(method: &str, path: &str, headers: &[&str]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

/// Sends a request with a body over a Unix socket.
pub async fn unix(socket: &Path, method: &str, path: &str, body: &[u8]) -> Answer {
    let stream = UnixStream::connect(socket).await.expect("the daemon listens");
    let length = format!("content-length: {}", body.len());
    exchange(stream, head(method, path, &[&length]).as_bytes(), body).await
}

/// Sends a request with headers and without a body over a Unix socket.
pub async fn unix_with(socket: &Path, method: &str, path: &str, headers: &[&str]) -> Answer {
    unix_body(socket, method, path, headers, b"").await
}

/// Sends a request with headers and a body over a Unix socket.
pub async fn unix_body(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let stream = UnixStream::connect(socket).await.expect("the daemon listens");
    exchange(stream, head(method, path, headers).as_bytes(), body).await
}

/// Sends a request without a body over TCP.
pub async fn tcp(address: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the daemon listens");
    exchange(stream, head(method, path, headers).as_bytes(), b"").await
}

/// As [`tcp`], from an address of this machine.
pub async fn tcp_from(
    from: IpAddr,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
) -> Answer {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.bind(SocketAddr::new(from, 0)).expect("the address is this machine's");
    let stream = socket.connect(address).await.expect("the daemon listens");
    exchange(stream, head(method, path, headers).as_bytes(), b"").await
}

/// Sends a request with headers and a body over TCP.
pub async fn with_headers(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the daemon listens");
    exchange(stream, head(method, path, headers).as_bytes(), body.as_bytes()).await
}

/// Reads until a word has come, and keeps all that did.
///
/// # Panics
/// If the stream ends before, or nothing comes.
pub async fn until_seen(stream: &mut (impl AsyncRead + Unpin), seen: &mut Vec<u8>, word: &str) {
    while !seen.windows(word.len()).any(|part| part == word.as_bytes()) {
        let read = timeout(HANGS, stream.read_buf(seen)).await.expect("something comes");
        let read = read.expect("the stream is whole");
        assert!(read > 0, "ended before {word:?}: {}", String::from_utf8_lossy(seen));
    }
}

/// Asks [`crate::servers::upgrades`] for an upgrade and exchanges bytes, until both ends have closed.
///
/// # Panics
/// If the server does not answer as it should.
pub async fn upgrade(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("the daemon reads");
    let mut seen = Vec::new();
    until_seen(&mut stream, &mut seen, "hello").await;
    assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&seen));
    stream.write_all(&[0, 0xff, 7]).await.expect("the server reads");
    let mut echoed = [0; 3];
    stream.read_exact(&mut echoed).await.expect("the server answers");
    assert_eq!(echoed, [0, 0xff, 7]);
    stream.shutdown().await.expect("one direction can be closed");
    let rest = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(rest.expect("the stream ends well"), 0);
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &[u8],
    body: &[u8],
) -> Answer {
    stream.write_all(head).await.expect("the daemon reads");
    stream.write_all(body).await.expect("the daemon reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the daemon answers");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an HTTP answer");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer { status: status.expect("a status"), head, body: answer[end + 4..].to_vec() }
}
