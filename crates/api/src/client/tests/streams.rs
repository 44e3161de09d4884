//! What a server does that hyper's own would not: answers that come early or while the request is
//! still on its way, connections that are closed at the worst moment, and upgrades.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::{
    CreateSnapshot, EditSandbox, EditUser, FileKind, ForkSandbox, JobEvent, Kill, MakeDirectory,
    ResumeSnapshot, SnapshotType, WatchEvent, WatchKind,
};

const NDJSON_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
const STARTED: &str = "{\"type\":\"started\",\"pid\":7,\"job_id\":\"j1\"}\n";
const EXIT: &str = "{\"type\":\"exit\",\"exit_code\":3}\n";

/// A server of which every connection is handled by hand.
struct Raw {
    directory: tempfile::TempDir,
}

impl Raw {
    fn new<F>(handle: impl Fn(usize, UnixStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(handle(number, stream));
            }
        });
        Self { directory }
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.directory.path().join("api.sock")), None)
    }
}

/// Reads until what was read ends with these bytes.
async fn read_to(stream: &mut UnixStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.push(stream.read_u8().await.unwrap());
    }
    bytes
}

async fn write(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// No test waits for ever.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("it hangs")
}

fn stdin() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(1 << 16)
}

#[tokio::test]
async fn input_goes_out_while_the_answer_comes() {
    let server = Raw::new(|_, mut stream| async move {
        let head = read_to(&mut stream, b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("content-type: application/x-ndjson\r\n"), "{head}");
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        read_to(&mut stream, b"{\"cmd\":[\"true\"]}\n\r\n").await;
        write(&mut stream, &(NDJSON_HEAD.to_owned() + &chunk(STARTED))).await;
        read_to(&mut stream, b"ping\r\n").await;
        write(&mut stream, &chunk("{\"type\":\"stdout\",\"data\":\"pong\"}\n")).await;
        read_to(&mut stream, b"0\r\n\r\n").await;
        write(&mut stream, &(chunk(EXIT) + "0\r\n\r\n")).await;
    });
    let (mut typed, input) = stdin();
    let mut client = server.client();
    let mut events = soon(client.exec_interactive("a", &command(), input)).await.unwrap();
    let started = soon(events.next()).await.unwrap();
    assert!(matches!(started, Some(StreamEvent::Started { pid: 7, .. })), "{started:?}");
    typed.write_all(b"ping").await.unwrap();
    let answer = soon(events.next()).await.unwrap();
    assert_eq!(answer, Some(StreamEvent::Stdout(crate::Payload::new("pong"))));
    drop(typed);
    let end = soon(events.next()).await.unwrap();
    assert_eq!(end, Some(StreamEvent::Exit { exit_code: 3, timed_out: false }));
    assert_eq!(soon(events.next()).await.unwrap(), None);
}

#[tokio::test]
async fn a_command_may_end_before_its_input_does() {
    let (told, mut closed) = tokio::sync::mpsc::channel(1);
    let server = Raw::new(move |_, mut stream| {
        let told = told.clone();
        async move {
            read_to(&mut stream, b"\r\n\r\n").await;
            write(&mut stream, &(NDJSON_HEAD.to_owned() + &chunk(EXIT) + "0\r\n\r\n")).await;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            told.send(()).await.unwrap();
        }
    });
    let (_typed, input) = stdin();
    let mut client = server.client();
    let mut events = soon(client.exec_interactive("a", &command(), input)).await.unwrap();
    let end = soon(events.next()).await.unwrap();
    assert!(matches!(end, Some(StreamEvent::Exit { exit_code: 3, .. })), "{end:?}");
    // The input is still open; the connection is given up all the same.
    soon(closed.recv()).await.unwrap();
}

#[tokio::test]
async fn an_answer_is_read_though_the_server_hung_up_on_the_input() {
    let output = "x".repeat(200 << 10);
    let event = format!("{{\"type\":\"stdout\",\"data\":\"{output}\"}}\n");
    let answer = NDJSON_HEAD.to_owned() + &chunk(&event) + &chunk(EXIT) + "0\r\n\r\n";
    let answer = Arc::new(answer);
    let server = Raw::new(move |_, mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            read_to(&mut stream, b"\r\n\r\n").await;
            write(&mut stream, &answer).await;
        }
    });
    for _ in 0..20 {
        let endless = tokio::io::repeat(b'y');
        let mut client = server.client();
        let mut events = soon(client.exec_interactive("a", &command(), endless)).await.unwrap();
        let Ok(Some(StreamEvent::Stdout(got))) = soon(events.next()).await else { panic!() };
        assert_eq!(got.into_bytes().unwrap().len(), output.len());
        let end = soon(events.next()).await.unwrap();
        assert!(matches!(end, Some(StreamEvent::Exit { exit_code: 3, .. })), "{end:?}");
    }
}

#[tokio::test]
async fn a_refused_upload_says_why() {
    let server = Raw::new(|_, mut stream| async move {
        read_to(&mut stream, b"\r\n\r\n").await;
        let body = r#"{"error":"/etc is a directory","code":"is_directory"}"#;
        let length = body.len();
        let head = format!("HTTP/1.1 409 Conflict\r\ncontent-length: {length}\r\n\r\n");
        write(&mut stream, &(head + body)).await;
    });
    let mut client = server.client();
    for _ in 0..20 {
        let endless = tokio::io::repeat(b'y');
        let error = soon(client.file_write("a", "/etc", None, endless)).await.unwrap_err();
        assert_eq!(error.api_code(), Some(&ErrorCode::IsDirectory), "{error:?}");
    }
}

#[tokio::test]
async fn dropping_the_events_hangs_up() {
    let (told, mut closed) = tokio::sync::mpsc::channel(1);
    let server = Raw::new(move |_, mut stream| {
        let told = told.clone();
        async move {
            read_to(&mut stream, b"\r\n\r\n").await;
            write(&mut stream, &(NDJSON_HEAD.to_owned() + &chunk(STARTED))).await;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            told.send(()).await.unwrap();
        }
    });
    let (_typed, input) = stdin();
    let mut client = server.client();
    let mut events = client.exec_interactive("a", &command(), input).await.unwrap();
    soon(events.next()).await.unwrap();
    drop(events);
    soon(closed.recv()).await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    // As a daemon that is restarted: one answer a connection, and no word that it will be closed.
    let server = Raw::new(|_, mut stream| async move {
        read_to(&mut stream, b"\r\n\r\n").await;
        let body = r#"{"exit_code":0,"stdout":"","stderr":""}"#;
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        write(&mut stream, &(head + body)).await;
    });
    let mut client = server.client();
    for round in 0..100 {
        soon(client.exec("a", &command())).await.unwrap_or_else(|e| panic!("{round}: {e:?}"));
        // The server's task has closed its end, and the client's has not heard of it.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tunnel_keeps_early_bytes_and_half_closed_streams() {
    let server = Raw::new(|_, mut stream| async move {
        let head = String::from_utf8(read_to(&mut stream, b"\r\n\r\n").await).unwrap();
        if head.starts_with("GET /sandboxes/a/ports/81/") {
            let body = r#"{"error":"nothing listens on port 81","code":"port_closed"}"#;
            let length = body.len();
            let head = format!("HTTP/1.1 502 Bad Gateway\r\ncontent-length: {length}\r\n\r\n");
            return write(&mut stream, &(head + body)).await;
        }
        assert!(head.starts_with("GET /sandboxes/a/ports/80/tunnel HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("upgrade: bhatti-tunnel\r\n"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
            upgrade: bhatti-tunnel\r\n\r\n220 hello\n";
        write(&mut stream, answer).await;
        let mut asked = String::new();
        stream.read_to_string(&mut asked).await.unwrap();
        write(&mut stream, &asked.to_uppercase()).await;
    });
    let client = server.client();
    let mut tunnel = soon(client.tunnel("a", 80)).await.unwrap();
    tunnel.write_all(b"quit").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut all = String::new();
    soon(tunnel.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "220 hello\nQUIT");

    let error = soon(client.tunnel("a", 81)).await.unwrap_err();
    assert_eq!(error.api_code(), Some(&ErrorCode::PortClosed), "{error:?}");
}

#[tokio::test]
async fn a_websocket_speaks_both_ways_and_an_impostor_is_noticed() {
    let server = Raw::new(|number, mut stream| async move {
        if number == 1 {
            read_to(&mut stream, b"\r\n\r\n").await;
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-accept: AAAA\r\n\r\n";
            return write(&mut stream, answer).await;
        }
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        let said = socket.next().await.unwrap().unwrap();
        socket.send(said).await.unwrap();
        let _ = socket.close(None).await;
    });
    let client = server.client();
    let mut socket = soon(client.terminal("a", &Terminal::default())).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    socket.send(Message::binary(&b"\xff"[..])).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::binary(&b"\xff"[..]));
    let error = soon(client.exec_session("a", None)).await.unwrap_err();
    assert!(matches!(error, ClientError::BadAnswer(_)), "{error:?}");
}

#[tokio::test]
async fn the_routes_are_the_promised_ones() {
    let done = Daemon::answering(200, "application/json", r#"{"status":"done","size":1}"#);
    let mut client = done.client();
    let kill = Kill { signal: Some("INT".into()) };
    client.job_kill("a", "j1", &kill).await.unwrap();
    client.job_remove("a", "j1").await.unwrap();
    client.session_kill("a", "s 1", &Kill::default()).await.unwrap();
    client.file_remove("a", "/x", true).await.unwrap();
    let directory = MakeDirectory { path: "/d".into(), ..MakeDirectory::default() };
    client.make_directory("a", &directory).await.unwrap();
    let content = || io::Cursor::new(b"tar".to_vec());
    client.file_append("a", "/x", content()).await.unwrap();
    client.file_write_as("a", "/x", None, Some("u:g"), content()).await.unwrap();
    client.archive_write("a", "/d", content()).await.unwrap();
    drop(client.file_read_range("a", "/x", ByteRange::Last(3)).await.unwrap());
    let lines: Vec<String> = done.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(
        lines,
        [
            "POST /sandboxes/a/jobs/j1/kill",
            "DELETE /sandboxes/a/jobs/j1",
            "POST /sandboxes/a/sessions/s%201/kill",
            "DELETE /sandboxes/a/files?path=%2Fx&recursive=true",
            "POST /sandboxes/a/files/mkdir",
            "PUT /sandboxes/a/files?path=%2Fx&append=true",
            "PUT /sandboxes/a/files?path=%2Fx&owner=u%3Ag",
            "PUT /sandboxes/a/archive?path=%2Fd",
            "GET /sandboxes/a/files?path=%2Fx",
        ]
    );
    let bodies: Vec<Vec<u8>> = done.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies[0], br#"{"signal":"INT"}"#);
    assert_eq!((bodies[2].as_slice(), bodies[7].as_slice()), (&b"{}"[..], &b"tar"[..]));
}

#[tokio::test]
async fn snapshots_forks_and_edits_have_the_promised_routes() {
    const NOTHING: &str = r#"{"status":"deleted","id":"snap_0","name":"s 1"}"#;
    let daemon = Daemon::answering(200, "application/json", NOTHING);
    let mut client = daemon.client();
    client.delete_snapshot("s 1").await.unwrap();
    // The rest answers something else, which does not matter here.
    let name = Some("n".to_owned());
    let disk = CreateSnapshot { name: "s".into(), kind: Some(SnapshotType::Disk) };
    let resume = ResumeSnapshot { name: name.clone() };
    client.checkpoint("a b", &disk).await.unwrap_err();
    client.snapshots().await.unwrap_err();
    client.snapshot("s/").await.unwrap_err();
    client.resume_snapshot("s", &resume).await.unwrap_err();
    client.resume_snapshot_watched("s", &ResumeSnapshot::default(), drop).await.unwrap_err();
    client.fork("a", &ForkSandbox { name, count: Some(2) }).await.unwrap_err();
    client
        .edit("a", &EditSandbox { keep_hot: Some(true), ..Default::default() })
        .await
        .unwrap_err();
    client
        .edit_user("u", &EditUser { max_snapshots: Some(1), ..Default::default() })
        .await
        .unwrap_err();
    let seen: Vec<String> = daemon
        .seen()
        .into_iter()
        .map(|seen| format!("{} {}", seen.line, String::from_utf8(seen.body).unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            "DELETE /snapshots/s%201 ",
            r#"POST /sandboxes/a%20b/checkpoint {"name":"s","type":"disk"}"#,
            "GET /snapshots ",
            "GET /snapshots/s%2F ",
            r#"POST /snapshots/s/resume {"name":"n"}"#,
            "POST /snapshots/s/resume {}",
            r#"POST /sandboxes/a/fork {"name":"n","count":2}"#,
            r#"PATCH /sandboxes/a {"keep_hot":true}"#,
            r#"PATCH /users/u {"max_snapshots":1}"#,
        ]
    );
}

#[tokio::test]
async fn files_of_a_new_sandbox_follow_the_request() {
    let line = "{\"type\":\"error\",\"error\":\"no room\",\"code\":\"host_disk_full\"}\n";
    let daemon = Daemon::answering(200, "application/x-ndjson", line);
    let request = CreateSandbox { name: Some("n".into()), ..CreateSandbox::default() };
    let tar = io::Cursor::new(b"\0tar".to_vec());
    let error = daemon.client().create_with_files(&request, tar, |_| ()).await.unwrap_err();
    assert_eq!(error.api_code(), Some(&ErrorCode::HostDiskFull));
    assert_eq!(daemon.seen()[0].body, b"{\"name\":\"n\"}\n\0tar");
}

#[tokio::test]
async fn job_output_and_watches_come_line_by_line() {
    let lines = concat!(
        "{\"type\":\"missed\",\"offset\":10}\n",
        "{\"type\":\"stderr\",\"offset\":10,\"data_b64\":\"/w==\"}\n",
        "{\"type\":\"end\",\"offset\":11,\"status\":\"exited\",\"exit_code\":0}\n",
    );
    let daemon = Daemon::answering(200, "application/x-ndjson", lines);
    let mut client = daemon.client();
    let mut events = client.job_output("a", "j1", 5, true).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(JobEvent::Missed { offset: 10 }));
    let Some(JobEvent::Stderr { offset: 10, payload }) = events.next().await.unwrap() else {
        panic!()
    };
    assert_eq!(payload.into_bytes().unwrap(), [0xff]);
    assert!(events.next().await.unwrap().unwrap().is_last());
    assert_eq!(events.next().await.unwrap(), None);
    let line = "GET /sandboxes/a/jobs/j1/output?offset=5&follow=true";
    assert_eq!(daemon.seen()[0].line, line);

    let lines =
        "{\"type\":\"watching\"}\n{\"type\":\"change\",\"kind\":\"write\",\"path\":\"/x\"}\n";
    let daemon = Daemon::answering(200, "application/x-ndjson", lines);
    let mut client = daemon.client();
    let mut events = client.watch("a", "/x", false).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(WatchEvent::Watching));
    let change = events.next().await.unwrap();
    assert!(
        matches!(change, Some(WatchEvent::Change { kind: WatchKind::Write, .. })),
        "{change:?}"
    );
    assert!(matches!(events.next().await, Err(ClientError::StreamCut)));
}

#[tokio::test]
async fn a_page_says_whether_there_is_another() {
    let server = Raw::new(|_, mut stream| async move {
        let head = String::from_utf8(read_to(&mut stream, b"\r\n\r\n").await).unwrap();
        assert!(head.starts_with("GET /sandboxes/a/files?path=%2F&ls=true&limit=2&after=b HTTP"));
        let body =
            r#"[{"name":"c","size":1,"mode":"0644","is_dir":false,"mtime":0,"kind":"file"}]"#;
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nx-bhatti-more: true\r\ncontent-length: {length}");
        write(&mut stream, &format!("{head}\r\n\r\n{body}")).await;
    });
    let mut client = server.client();
    let (entries, more) = soon(client.file_list_page("a", "/", Some("b"), 2)).await.unwrap();
    assert!(more);
    assert_eq!((entries[0].name.as_str(), &entries[0].kind), ("c", &FileKind::File));
}
