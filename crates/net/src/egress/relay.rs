//! Passing bytes on between a client and a server: as they are, or with every HTTP request on the
//! way checked.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};

use super::{
    decide::Reason,
    hello::HEAD_MAX,
    request::{self, Body, Chunks, Head},
};

/// How much is read at once.
const READ_SIZE: usize = 16 * 1024;
/// How long a request's head may take from its first byte on.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(20);
/// How long a server may take to answer what it was asked before a request was denied.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How an answer starts that makes the connection a WebSocket.
const SWITCHED: &[u8] = b"HTTP/1.1 101";

/// Passes everything on, each direction until its end.
pub(crate) async fn plain(
    mut client: TcpStream,
    mut server: TcpStream,
    said: &[u8],
) -> io::Result<()> {
    server.write_all(said).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

/// Why no more requests are passed on.
#[derive(Debug)]
pub(crate) enum End {
    /// The client has said all it wanted to.
    Said,
    /// A request that may not be.
    Denied(Reason),
    Io,
}

/// Passes requests on, each after `check` has let it, and whatever the server says. `bytes` start
/// with the first request's `head`, which has been checked. A denied request is answered here,
/// with what `refusal` says, once the server has answered those before it.
pub(crate) async fn http(
    client: TcpStream,
    server: TcpStream,
    bytes: Vec<u8>,
    head: Head,
    check: impl FnMut(&Head) -> Result<(), Reason>,
    refusal: impl FnOnce(&Reason) -> Vec<u8>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (tell, switched) = watch::channel(None);
    let mut requests =
        Requests { client: from_client, server: to_server, bytes, switched, first: true };
    let up = async move {
        let end = requests.run(head, check).await;
        // What was asked is asked in full: the server may answer and end.
        let _ = requests.server.shutdown().await;
        end
    };
    let down = answers(from_server, to_client, tell);
    tokio::pin!(up, down);
    let (end, client) = tokio::select! {
        end = &mut up => match end {
            End::Denied(_) => (end, timeout(DRAIN_TIME, down).await.ok().flatten()),
            End::Said => (end, down.await),
            End::Io => return,
        },
        client = &mut down => {
            let Some(mut client) = client else { return };
            if client.shutdown().await.is_err() {
                return;
            }
            // It has answered all that it will, so what is still said is passed on until it
            // refuses to hear it.
            up.await;
            return;
        }
    };
    let Some(mut client) = client else { return };
    if let End::Denied(reason) = end {
        let _ = client.write_all(&refusal(&reason)).await;
    }
    let _ = client.shutdown().await;
}

/// Passes on what the server says until its end, and says whether its first answer makes the
/// connection something else.
async fn answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    tell: watch::Sender<Option<bool>>,
) -> Option<OwnedWriteHalf> {
    let mut first = Vec::new();
    while first.len() < SWITCHED.len() {
        let before = first.len();
        if server.read_buf(&mut first).await.ok()? == 0 {
            return Some(client);
        }
        if first.len() >= SWITCHED.len() {
            // Told before it is passed on, as the client may answer at once.
            tell.send_replace(Some(first.starts_with(SWITCHED)));
        }
        client.write_all(&first[before..]).await.ok()?;
    }
    tokio::io::copy(&mut server, &mut client).await.ok()?;
    Some(client)
}

/// The way of requests from client to server.
struct Requests {
    client: OwnedReadHalf,
    server: OwnedWriteHalf,
    /// Read and not passed on.
    bytes: Vec<u8>,
    /// Whether the server's first answer makes this a WebSocket, once it has come.
    switched: watch::Receiver<Option<bool>>,
    /// Whether this is the first request, so that the first answer is to it.
    first: bool,
}

impl Requests {
    async fn run(
        &mut self,
        mut head: Head,
        mut check: impl FnMut(&Head) -> Result<(), Reason>,
    ) -> End {
        loop {
            match self.pass_request(&head).await {
                Ok(true) => {}
                Ok(false) => return End::Denied(Reason::Unreadable),
                Err(_) => return End::Io,
            }
            if head.websocket {
                // Which of several answers would be the one to wait for cannot be seen here.
                if !self.first {
                    return End::Denied(Reason::Unreadable);
                }
                let switched = self.switched.wait_for(Option::is_some).await;
                match switched.map(|switched| *switched) {
                    Ok(Some(true)) => return self.pass_all().await,
                    Ok(_) => {}
                    Err(_) => return End::Io,
                }
            }
            self.first = false;
            head = match self.next_head().await {
                Ok(head) => head,
                Err(end) => return end,
            };
            if let Err(reason) = check(&head) {
                return End::Denied(reason);
            }
            if head.websocket {
                return End::Denied(Reason::Unreadable);
            }
        }
    }

    /// The next request's head, which may be long in coming, but not in pieces.
    async fn next_head(&mut self) -> Result<Head, End> {
        if self.bytes.is_empty() && self.read().await.map_err(|_| End::Io)? == 0 {
            return Err(End::Said);
        }
        let head = timeout(HEAD_TIME, async {
            loop {
                match request::parse(&self.bytes) {
                    Ok(Some(head)) => return Ok(head),
                    Ok(None) if self.bytes.len() < HEAD_MAX => {}
                    Ok(None) | Err(request::Broken) => {
                        return Err(End::Denied(Reason::Unreadable));
                    }
                }
                if self.read().await.map_err(|_| End::Io)? == 0 {
                    return Err(End::Denied(Reason::Unreadable));
                }
            }
        });
        head.await.unwrap_or(Err(End::Denied(Reason::HeadTimeout)))
    }

    /// Passes one request on; false if its body is broken.
    async fn pass_request(&mut self, head: &Head) -> io::Result<bool> {
        self.pass(head.size).await?;
        match head.body {
            Body::Sized(mut left) => {
                while left > 0 {
                    if self.bytes.is_empty() && self.read().await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(self.bytes.len());
                    self.pass(part).await?;
                    left -= part as u64;
                }
                Ok(true)
            }
            Body::Chunked => {
                let mut chunks = Chunks::default();
                loop {
                    let Ok((part, done)) = chunks.advance(&self.bytes) else { return Ok(false) };
                    self.pass(part).await?;
                    if done {
                        return Ok(true);
                    }
                    if self.read().await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    async fn pass_all(&mut self) -> End {
        let copied = async {
            self.pass(self.bytes.len()).await?;
            tokio::io::copy(&mut self.client, &mut self.server).await
        };
        copied.await.map_or(End::Io, |_| End::Said)
    }

    async fn pass(&mut self, size: usize) -> io::Result<()> {
        write_all(&mut self.server, &self.bytes[..size]).await?;
        self.bytes.drain(..size);
        Ok(())
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.bytes.reserve(READ_SIZE);
        self.client.read_buf(&mut self.bytes).await
    }
}

async fn write_all(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { to.write_all(bytes).await }
}
