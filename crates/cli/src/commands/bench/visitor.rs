//! Visitors of a server in a sandbox, who send requests and read answers themselves, so that the
//! clock is in nobody else's hands.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Duration, Instant, timeout},
};

/// Whoever waits for so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
/// Most bytes of an answer's head.
const HEAD_MAX: usize = 16 << 10;
/// Visitors of one network have this much of an address in common.
const NEIGHBOURS: u16 = 250;

/// A connection that is kept open, below a path.
#[derive(Debug)]
pub(super) struct Visitor {
    stream: TcpStream,
    host: String,
    /// What is before the server's own path.
    prefix: String,
    seen: Vec<u8>,
}

impl Visitor {
    /// Of a connection to the server itself.
    pub(super) fn direct(stream: TcpStream) -> Result<Self> {
        let host = stream.peer_addr().context("ask for the server's address")?.to_string();
        stream.set_nodelay(true).context("set up a connection")?;
        Ok(Self { stream, host, prefix: String::new(), seen: Vec::new() })
    }

    /// One more visitor of a public address `http://HOST:PORT/ALIAS/`. Each number has an address of
    /// its own in 127.0.0.0/8, as visitors have.
    pub(super) async fn of(url: &str, number: u16) -> Result<Self> {
        let (host, prefix) = place(url).with_context(|| format!("there is no place in {url}"))?;
        let [high, low] = [number / NEIGHBOURS, number % NEIGHBOURS].map(u8::try_from);
        let from = IpAddr::V4(Ipv4Addr::new(127, 1, high?, low? + 1));
        let socket = TcpSocket::new_v4().context("make a socket")?;
        socket.bind(SocketAddr::new(from, 0)).context("take an address of the loopback")?;
        let connected = timeout(PATIENCE, socket.connect(host)).await;
        let stream = connected.context("nobody accepts")?.context("connect to the daemon")?;
        Ok(Self { prefix: prefix.to_owned(), ..Self::direct(stream)? })
    }

    /// Asks for a path without its leading slash, and waits for the whole answer: how many bytes
    /// its body had, and how long it took.
    pub(super) async fn get(&mut self, path: &str) -> Result<(usize, Duration)> {
        let request = format!("GET {}/{path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.prefix, self.host);
        let start = Instant::now();
        let size = timeout(PATIENCE, self.exchange(&request)).await;
        Ok((size.context("no answer came")??, start.elapsed()))
    }

    async fn exchange(&mut self, request: &str) -> Result<usize> {
        self.stream.write_all(request.as_bytes()).await.context("send a request")?;
        self.seen.clear();
        let length = loop {
            ensure!(self.stream.read_buf(&mut self.seen).await? > 0, "closed without an answer");
            if let Some(end) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.seen[..end]).to_lowercase();
                self.seen.drain(..end + 4);
                break length(&head)?;
            }
            ensure!(self.seen.len() < HEAD_MAX, "the head of an answer has no end");
        };
        let mut got = self.seen.len();
        self.seen.reserve(PIECE.min(length));
        while got < length {
            self.seen.clear();
            let count = self.stream.read_buf(&mut self.seen).await?;
            ensure!(count > 0, "{got} bytes of {length} came");
            got += count;
        }
        ensure!(got == length, "{got} bytes came where {length} were to");
        Ok(got)
    }
}

/// The address, and the path without a slash at its end.
fn place(url: &str) -> Option<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://")?;
    let at = rest.find('/')?;
    Some((rest[..at].parse().ok()?, rest[at..].trim_end_matches('/')))
}

/// How long the body is that follows a head in small letters.
fn length(head: &str) -> Result<usize> {
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the answer was {}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.context("the answer does not say how long it is")?.trim().parse().context("no length")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request on one connection with these bytes, in two pieces.
    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while stream.read_buf(&mut seen).await.unwrap() > 0 {
                if seen.ends_with(b"\r\n\r\n") {
                    assert!(seen.starts_with(b"GET /web/x HTTP/1.1\r\n"));
                    seen.clear();
                    let (first, second) = answer.split_at(answer.len() - 2);
                    stream.write_all(first).await.unwrap();
                    stream.write_all(second).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_whole_answer_is_read_again_and_again() {
        let answer = b"HTTP/1.1 200 OK\r\nCONTENT-length: 5\r\n\r\nhello";
        let url = format!("http://{}/web/", server(answer).await);
        let mut visitor = Visitor::of(&url, 999).await.unwrap();
        assert_eq!(visitor.stream.local_addr().unwrap().ip(), Ipv4Addr::new(127, 1, 3, 250));
        for _ in 0..3 {
            assert_eq!(visitor.get("x").await.unwrap().0, 5);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_good_is_an_error() {
        for answer in [
            &b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhello",
        ] {
            let url = format!("http://{}/web/", server(answer).await);
            Visitor::of(&url, 0).await.unwrap().get("x").await.unwrap_err();
        }
    }
}
