//! The client against a small server that answers what each test wants.

mod streams;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use super::*;
use crate::{CreateSandbox, ErrorCode, ExecRequest, StreamEvent};

/// What reached the server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    connection: usize,
    line: String,
    key: Option<String>,
    body: Vec<u8>,
}

struct Daemon {
    directory: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Daemon {
    /// Answers every request with this, and keeps connections open.
    fn answering(status: u16, media: &'static str, body: &'static str) -> Self {
        Self::serving(status, media, body, true)
    }

    fn serving(status: u16, media: &'static str, body: &'static str, keep_alive: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&log);
                let service = service_fn(move |request: Request<Incoming>| {
                    let log = Arc::clone(&log);
                    async move {
                        let (parts, content) = request.into_parts();
                        let body_in = content.collect().await.unwrap().to_bytes().to_vec();
                        let key = parts.headers.get("authorization");
                        log.lock().unwrap().push(Seen {
                            connection,
                            line: format!("{} {}", parts.method, parts.uri),
                            key: key.map(|value| value.to_str().unwrap().to_owned()),
                            body: body_in,
                        });
                        let answer = Response::builder()
                            .status(status)
                            .header("content-type", media)
                            .body(Full::new(Bytes::from_static(body.as_bytes())))
                            .unwrap();
                        Ok::<_, Infallible>(answer)
                    }
                });
                tokio::spawn(
                    server::conn::http1::Builder::new()
                        .keep_alive(keep_alive)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { directory, seen }
    }

    fn client(&self) -> Client {
        let socket: PathBuf = self.directory.path().join("api.sock");
        Client::new(Endpoint::Unix(socket), Some("bht_k".to_owned()))
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn command() -> ExecRequest {
    ExecRequest { cmd: vec!["true".to_owned()], ..ExecRequest::default() }
}

#[tokio::test]
async fn many_requests_go_over_one_connection() {
    let daemon = Daemon::answering(200, "application/json", "[]");
    let mut client = daemon.client();
    for _ in 0..3 {
        assert!(client.sandboxes(&[("a".into(), "b c".into())]).await.unwrap().is_empty());
    }
    let seen = daemon.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.connection == 0), "{seen:?}");
    assert_eq!(seen[0].line, "GET /sandboxes?label=a%3Db%20c");
    assert_eq!(seen[0].key.as_deref(), Some("Bearer bht_k"));
    assert_eq!(client.timing().requests, 3);
}

#[tokio::test]
async fn a_connection_that_the_daemon_closed_is_made_anew() {
    let daemon = Daemon::serving(200, "application/json", "[]", false);
    let mut client = daemon.client();
    for _ in 0..3 {
        client.sandboxes(&[]).await.unwrap();
    }
    let connections: Vec<usize> = daemon.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 1, 2]);
}

#[tokio::test]
async fn the_exit_code_and_the_exact_bytes_come_through() {
    let lines = concat!(
        "{\"type\":\"stdout\",\"data\":\"a\\n\"}\n",
        "{\"type\":\"stderr\",\"data_b64\":\"/w==\"}\n",
        "{\"type\":\"news\",\"of\":\"a later version\"}\n\n",
        "{\"type\":\"exit\",\"exit_code\":42,\"timed_out\":false}\n",
    );
    let daemon = Daemon::answering(200, "application/x-ndjson", lines);
    let mut client = daemon.client();
    for round in 0..2 {
        let mut events = client.exec_stream("../x", &command()).await.unwrap();
        let mut got = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            got.push(event);
        }
        assert_eq!(got.len(), 4, "{got:?}");
        let StreamEvent::Stderr(payload) = got[1].clone() else { panic!("{got:?}") };
        assert_eq!(payload.into_bytes().unwrap(), [0xff]);
        assert_eq!(got[3], StreamEvent::Exit { exit_code: 42, timed_out: false });
        let seen = daemon.seen();
        // A stream that was read to its end leaves the connection usable.
        assert_eq!((seen.len(), seen[round].connection), (round + 1, 0));
        assert_eq!(seen[round].line, "POST /sandboxes/..%2Fx/exec");
        assert_eq!(seen[round].body, br#"{"cmd":["true"]}"#);
    }
}

#[tokio::test]
async fn a_stream_without_its_last_event_is_an_error() {
    let line = "{\"type\":\"stdout\",\"data\":\"half\"}\n";
    let daemon = Daemon::answering(200, "application/x-ndjson", line);
    let mut client = daemon.client();
    let mut events = client.exec_stream("a", &command()).await.unwrap();
    assert!(matches!(events.next().await, Ok(Some(StreamEvent::Stdout(_)))));
    assert!(matches!(events.next().await, Err(ClientError::StreamCut)));
}

#[tokio::test]
async fn errors_keep_their_code_and_hint_on_both_ways_they_come() {
    let body = r#"{"error":"sandbox a is stopped","code":"wrong_state","hint":"bhatti start a"}"#;
    let daemon = Daemon::answering(409, "application/json", body);
    let error = daemon.client().exec_stream("a", &command()).await.unwrap_err();
    assert_eq!(error.to_string(), "sandbox a is stopped");
    assert_eq!(error.hint().as_deref(), Some("bhatti start a"));
    assert_eq!(error.api_code(), Some(&ErrorCode::WrongState));

    let line = "{\"type\":\"error\",\"error\":\"no room\",\"code\":\"host_disk_full\"}\n";
    let daemon = Daemon::answering(200, "application/x-ndjson", line);
    let error = daemon.client().create(&CreateSandbox::default(), |_| ()).await.unwrap_err();
    assert_eq!(error.api_code(), Some(&ErrorCode::HostDiskFull));
}

#[tokio::test]
async fn progress_is_told_before_the_result() {
    let lines = concat!(
        "{\"type\":\"progress\",\"message\":\"booting\"}\n",
        "{\"type\":\"result\",\"existing\":true,\"sandbox\":{\"id\":\"1\",\"name\":\"a\",",
        "\"status\":\"running\",\"thermal\":\"hot\",\"image\":\"m\",\"cpus\":1,\"memory_mb\":256,",
        "\"disk_size_mb\":1024,\"created_by\":\"usr_1\",\"created_at\":\"t\",",
        "\"engine\":\"qemu/tcg\",\"generation\":1}}\n",
    );
    let daemon = Daemon::answering(200, "application/x-ndjson; charset=utf-8", lines);
    let mut told = Vec::new();
    let created =
        daemon.client().create(&CreateSandbox::default(), |step| told.push(step)).await.unwrap();
    assert_eq!(told, ["booting"]);
    assert!(created.existing);
    assert_eq!(created.sandbox.name, "a");
}

#[tokio::test]
async fn files_are_streamed_both_ways() {
    let daemon = Daemon::answering(200, "application/json", r#"{"status":"ok","size":5}"#);
    let mut client = daemon.client();
    let content = io::Cursor::new(b"he\xffo\n".to_vec());
    let written = client.file_write("a", "/tmp/ä b", Some("0600"), content).await.unwrap();
    assert_eq!(written.size, 5);
    let mut read = client.file_read("a", "/f", FilePart::default()).await.unwrap();
    assert_eq!(read.chunk().await.unwrap().unwrap().len(), 24);
    assert_eq!(read.chunk().await.unwrap(), None);
    let seen = daemon.seen();
    assert_eq!(seen[0].line, "PUT /sandboxes/a/files?path=%2Ftmp%2F%C3%A4%20b&mode=0600");
    assert_eq!(seen[0].body, b"he\xffo\n");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told_from_one_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let error = Client::connect(Endpoint::Unix(socket), None).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("bhatti serve")));

    let daemon = Daemon::answering(502, "text/html", "<h1>bad gateway</h1>");
    let error = daemon.client().health().await.unwrap_err();
    assert_eq!(error.to_string(), "the server answered 502 Bad Gateway: <h1>bad gateway</h1>");
}
