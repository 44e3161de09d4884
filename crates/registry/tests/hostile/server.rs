//! A registry that says whatever a test wants it to, byte by byte.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

/// A request, as far as tests look at it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

/// What is written, and what comes after.
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Do not close, but say nothing more.
    pub(crate) hang: bool,
    /// Wait for another request, without having said so.
    pub(crate) keep: bool,
    /// After these bytes, one byte of this at a time, for ever.
    pub(crate) trickle: bool,
}

impl Reply {
    pub(crate) fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let length = body.len().to_string();
        let mut all = vec![("Content-Length", length.as_str())];
        all.extend(headers);
        Self::raw(status, &all, body)
    }

    /// Without a length of its own.
    pub(crate) fn raw(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
        if !headers.iter().any(|(name, _)| *name == "Connection") {
            bytes.extend(b"Connection: close\r\n");
        }
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Self { bytes, hang: false, keep: false, trickle: false }
    }

    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::new("200 OK", &[], body)
    }

    /// One that does not say that it is the last on its connection, which it may be.
    pub(crate) fn on(keep: bool, body: &[u8]) -> Self {
        Self { keep, ..Self::new("200 OK", &[("Connection", "keep-alive")], body) }
    }

    pub(crate) fn not_found() -> Self {
        Self::new("404 Not Found", &[], b"")
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::new("307 Temporary Redirect", &[("Location", to)], b"")
    }
}

type Answer = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// Ends when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// How many have connected.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Told when somebody who was kept waiting has gone.
    pub(crate) gone: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", None, answer).await
    }

    pub(crate) async fn at(
        address: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, heard): (Answer, _) = (Arc::new(answer), Arc::clone(&asked));
        let gone = Arc::new(Notify::new());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let told = Arc::clone(&gone);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (answer, heard, tls) = (Arc::clone(&answer), Arc::clone(&heard), tls.clone());
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &answer, &heard, &told).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &answer, &heard, &told).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, asked, connections, gone, task: task.abort_handle() }
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Answer,
    heard: &Mutex<Vec<Asked>>,
    told: &Notify,
) {
    while let Some(asked) = request(&mut stream).await {
        heard.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        if stream.write_all(&reply.bytes).await.is_err() {
            return;
        }
        let mut slow = tokio::time::interval(std::time::Duration::from_millis(20));
        while reply.trickle && stream.write_all(b"x").await.is_ok() {
            slow.tick().await;
        }
        if reply.hang {
            // Until the other side has had enough.
            let _ = stream.read_u8().await;
            told.notify_one();
        }
        if !reply.keep {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            // The beginning of a TLS connection: somebody who finds out what is spoken here.
            Ok(0x16) if head.is_empty() => {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                return None;
            }
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect();
    Some(Asked { path, headers })
}
