//! Requests byte by byte.

use std::{net::SocketAddr, path::Path};

use api::ErrorBody;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

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
