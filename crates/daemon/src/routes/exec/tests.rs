use std::{collections::VecDeque, time::Duration};

use axum::{Router, routing::post};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream, UnixListener, UnixStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::timeout,
};

use super::*;
use crate::{
    app,
    connections::{self, Listener},
    listen::bind_tcp,
    running::Input,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn asked(json: &str, stdin: &Stdin) -> Result<guest::Exec, Failure> {
    understand(serde_json::from_str(json).unwrap(), stdin)
}

async fn rest() -> Stdin {
    Stdin::Streamed(lead::split(Body::from("{}\ninput"), 10).await.unwrap().1)
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_the_sandbox_is_woken() {
    for (json, code) in [
        (r#"{"cmd":[]}"#, ErrorCode::CommandMissing),
        (r#"{"cmd":[""]}"#, ErrorCode::CommandMissing),
        (r#"{"cmd":["a\u0000"]}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"timeout_sec":0}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"timeout_sec":86401}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"detach":true,"timeout_sec":86401}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"env":{"A=B":"c"}}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"env":{"A":"c\u0000"}}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"cwd":"/\u0000"}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"keep_awake":true}"#, ErrorCode::InvalidRequest),
        (r#"{"cmd":["a"],"output_max_bytes":1}"#, ErrorCode::InvalidRequest),
    ] {
        assert_eq!(asked(json, &Stdin::None).unwrap_err().code, code, "{json}");
    }
    let whole = Stdin::Whole(Vec::new());
    let detached = asked(r#"{"cmd":["a"],"detach":true}"#, &whole).unwrap_err();
    assert_eq!(detached.code, ErrorCode::InvalidRequest);
    let twice = asked(r#"{"cmd":["a"],"stdin_b64":""}"#, &rest().await).unwrap_err();
    assert_eq!(twice.code, ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn the_time_limit_is_the_one_asked_for_or_the_default() {
    let exec = asked(r#"{"cmd":["a"]}"#, &Stdin::None).unwrap();
    assert_eq!((exec.timeout_ms, exec.stdin, exec.detach), (Some(300_000), false, None));
    let exec = asked(r#"{"cmd":["a"],"timeout_sec":86400}"#, &Stdin::Whole(vec![])).unwrap();
    assert_eq!((exec.timeout_ms, exec.stdin), (Some(86_400_000), true));
    assert!(asked(r#"{"cmd":["a"]}"#, &rest().await).unwrap().stdin);
}

#[test]
fn a_job_has_no_time_limit_unless_it_asks_for_one() {
    let json = r#"{"cmd":["a"],"detach":true,"keep_awake":true,"output_max_bytes":5}"#;
    let exec = asked(json, &Stdin::None).unwrap();
    let detach = guest::Detach { keep_awake: true, output_max: Some(5) };
    assert_eq!((exec.timeout_ms, exec.stdin, exec.detach), (None, false, Some(detach)));
    let json = r#"{"cmd":["a"],"detach":true,"timeout_sec":5}"#;
    assert_eq!(asked(json, &Stdin::None).unwrap().timeout_ms, Some(5000));
}

#[tokio::test]
async fn input_in_base64_has_its_own_limit() {
    let read = async |json: String| read(&HeaderMap::new(), json.into(), 1000).await;
    let (_, stdin) = read(r#"{"cmd":["a"],"stdin_b64":"aGk="}"#.to_owned()).await.unwrap();
    assert!(matches!(stdin, Stdin::Whole(bytes) if bytes == b"hi"));
    let odd = read(r#"{"cmd":["a"],"stdin_b64":"?"}"#.to_owned()).await.unwrap_err();
    assert_eq!(odd.code, ErrorCode::InvalidRequest);
    let large = "A".repeat(STDIN_BODY + 4);
    let large = read(format!(r#"{{"cmd":["a"],"stdin_b64":"{large}"}}"#)).await.unwrap_err();
    assert_eq!(large.code, ErrorCode::BodyTooLarge);
}

#[test]
fn output_beyond_the_limit_is_dropped_and_told() {
    let mut output = Output::default();
    output.push(&vec![1; OUTPUT_MAX]);
    assert!(!output.truncated);
    output.push(&[]);
    assert!(!output.truncated);
    output.push(&[2]);
    assert!(output.truncated);
    assert_eq!(output.kept.len(), OUTPUT_MAX);
}

/// A command made of what a test does.
struct Fake {
    events: mpsc::Receiver<ExecEvent>,
    input: Option<FakeInput>,
    _alive: mpsc::Sender<()>,
}

struct FakeInput(mpsc::Sender<Vec<u8>>);

impl Command for Fake {
    type Input = FakeInput;

    async fn next(&mut self) -> orchestrator::Result<ExecEvent> {
        let lost = || orchestrator::Error::new(orchestrator::Kind::AgentUnreachable, "lost");
        self.events.recv().await.ok_or_else(lost)
    }

    fn take_input(&mut self) -> Option<FakeInput> {
        self.input.take()
    }
}

impl Input for FakeInput {
    async fn send(&mut self, data: &[u8]) -> orchestrator::Result<()> {
        let gone = |_| orchestrator::Error::new(orchestrator::Kind::AgentUnreachable, "gone");
        self.0.send(data.to_vec()).await.map_err(gone)
    }
}

/// The guest's end of a command.
struct Ends {
    events: mpsc::Sender<ExecEvent>,
    input: mpsc::Receiver<Vec<u8>>,
    /// Ends when the daemon has let go of the command.
    alive: mpsc::Receiver<()>,
}

impl Ends {
    async fn exit(&self) {
        let exited = guest::Exited { code: 3, signal: None, timed_out: false };
        self.events.send(ExecEvent::Exited(exited)).await.unwrap();
    }

    async fn dropped(&mut self) {
        timeout(PATIENCE, self.alive.recv()).await.unwrap();
    }
}

fn fake() -> (Fake, Ends) {
    let (events, told) = mpsc::channel(1);
    let (typed, input) = mpsc::channel(1);
    let (held, alive) = mpsc::channel(1);
    let fake = Fake { events: told, input: Some(FakeInput(typed)), _alive: held };
    (fake, Ends { events, input, alive })
}

/// The head of a request whose body is being made.
const HEAD: &str = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

/// Runs one fake command after another.
fn router(commands: Vec<Fake>) -> Router {
    let commands = std::sync::Arc::new(std::sync::Mutex::new(VecDeque::from(commands)));
    let run = async move |headers: HeaderMap, body: Body| {
        let fake = commands.lock().unwrap().pop_front().unwrap();
        let (_, rest) = lead::split(body, 100).await?;
        let running = Running::new(fake, Stdin::Streamed(rest));
        if body::wants_events(&headers) {
            let started = StreamEvent::Started { pid: 1, job_id: "j1".to_owned() };
            return Ok(streamed(started, running, RequestId::new()));
        }
        Ok::<_, Failure>(Json(buffered(running).await?).into_response())
    };
    app::surrounded(Router::new().route("/", post(run)))
}

/// A client of a daemon that runs one fake command after another.
struct Client {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    _stop: watch::Sender<bool>,
}

impl Client {
    async fn of(commands: Vec<Fake>) -> Self {
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(connections::run(Listener::Tcp(tcp), router(commands), stopping));
        let (read, write) = TcpStream::connect(address).await.unwrap().into_split();
        Self { read: BufReader::new(read), write, _stop: stop }
    }

    async fn ask(&mut self, accept: &str) {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        self.write.write_all(head.as_bytes()).await.unwrap();
        self.chunk(b"{}\n").await;
    }

    async fn chunk(&mut self, data: &[u8]) {
        chunk(&mut self.write, data).await.unwrap();
    }

    /// Reads until the word has come.
    async fn until(&mut self, word: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(word.as_bytes()) {
            let byte = timeout(PATIENCE, self.read.read_u8()).await.unwrap();
            read.push(byte.unwrap_or_else(|e| panic!("{e} before {word:?}")));
        }
        String::from_utf8(read).unwrap()
    }
}

async fn chunk(write: &mut OwnedWriteHalf, data: &[u8]) -> std::io::Result<()> {
    write.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
    write.write_all(data).await?;
    write.write_all(b"\r\n").await
}

#[tokio::test]
async fn a_client_can_talk_with_a_command() {
    let (command, mut ends) = fake();
    let mut client = Client::of(vec![command]).await;
    client.ask(headers::NDJSON).await;
    client.until(r#"{"type":"started","pid":1,"job_id":"j1"}"#).await;
    for word in ["ping", "pong"] {
        client.chunk(word.as_bytes()).await;
        let heard = timeout(PATIENCE, ends.input.recv()).await.unwrap().unwrap();
        assert_eq!(heard, word.as_bytes());
        ends.events.send(ExecEvent::Stdout(heard)).await.unwrap();
        client.until(word).await;
    }
    // Having said everything is not having left.
    client.chunk(b"").await;
    assert_eq!(ends.input.recv().await.unwrap(), b"");
    ends.events.send(ExecEvent::Stderr(b"late".to_vec())).await.unwrap();
    client.until("late").await;
    ends.exit().await;
    client.until(r#""exit_code":3"#).await;
    ends.dropped().await;
}

#[tokio::test]
async fn a_command_that_does_not_read_all_is_answered_at_once_and_in_full() {
    for accept in [headers::NDJSON, headers::JSON] {
        let (first, ends) = fake();
        let (second, next) = fake();
        let mut client = Client::of(vec![first, second]).await;
        client.ask(accept).await;
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        // Sends until the answer is there, far more than is buffered on the way.
        let Client { read, mut write, _stop } = client;
        let send = tokio::spawn(async move {
            let piece = vec![b'x'; 64 << 10];
            while stopped.try_recv().is_err() {
                chunk(&mut write, &piece).await.unwrap();
            }
            write.write_all(b"0\r\n\r\n").await.unwrap();
            write
        });
        ends.exit().await;
        let mut client = Client { read, write: connect_nowhere().await, _stop };
        client.until(r#""exit_code":3"#).await;
        stop.send(()).unwrap();
        client.write = timeout(PATIENCE, send).await.unwrap().unwrap();
        // The connection is as good as before.
        client.ask(accept).await;
        client.chunk(b"").await;
        next.exit().await;
        client.until("200").await;
        client.until(r#""exit_code":3"#).await;
    }
}

/// A write half that stands in for one that is used elsewhere.
async fn connect_nowhere() -> OwnedWriteHalf {
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap().into_split().1
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_command_with_it() {
    for accept in [headers::NDJSON, headers::JSON] {
        // In the middle of its input.
        let (command, mut ends) = fake();
        let mut client = Client::of(vec![command]).await;
        client.ask(accept).await;
        client.chunk(b"some").await;
        assert_eq!(ends.input.recv().await.unwrap(), b"some");
        let Client { read, write, _stop } = client;
        drop((read, write));
        ends.dropped().await;
        // After all of it, while the command has not read any.
        let (command, mut ends) = fake();
        let mut client = Client::of(vec![command]).await;
        client.ask(accept).await;
        client.chunk(b"some").await;
        client.chunk(b"more").await;
        client.chunk(b"").await;
        let Client { read, write, _stop } = client;
        drop((read, write));
        ends.dropped().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_input_waits_takes_the_command_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (command, mut ends) = fake();
    let (_stop, stopping) = watch::channel(false);
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    tokio::spawn(connections::run(listener, router(vec![command]), stopping));
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(HEAD.as_bytes()).await.unwrap();
    let sent = 1_u64 << 40;
    client.write_all(format!("{sent:x}\r\n{{}}\n").as_bytes()).await.unwrap();
    // As much as fits into everything between here and the command, which reads nothing.
    let piece = vec![b'x'; 64 << 10];
    let send = async { while client.write_all(&piece).await.is_ok() {} };
    timeout(Duration::from_millis(300), send).await.unwrap_err();
    ends.alive.try_recv().unwrap_err();
    assert!(!ends.input.is_empty());
    drop(client);
    ends.dropped().await;
}

#[tokio::test]
async fn a_command_that_is_lost_is_told_as_the_last_event() {
    let (command, ends) = fake();
    let mut client = Client::of(vec![command]).await;
    client.ask(headers::NDJSON).await;
    client.until("started").await;
    drop(ends);
    client.until("error").await;
    client.until("agent_unreachable").await;
    client.until("\r\n0\r\n\r\n").await;
}
