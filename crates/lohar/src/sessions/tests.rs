use std::time::Duration;

use proto::frame::{Frame, FrameKind};
use proto::message::{
    Attach, AttachControl, DetachReason, ErrorCode, Exited, INIT, Init, NewSession, Request,
    Response, RestartPolicy, SessionInfo, Target, WindowSize,
};
use proto::mux::{Session, Stream};
use tokio::time::timeout;

use super::ring::RING_MAX;
use crate::testing::{
    Guest, PATIENCE, ask, fifo, hear, held, next, open, refused, released, run, shell, tell,
};

mod init;
mod join;
mod programs;

fn program(script: &str, tty: bool) -> NewSession {
    let exec = shell(script);
    NewSession { argv: exec.argv, cwd: exec.cwd, user: exec.user, tty, ..NewSession::default() }
}

fn new(session: NewSession) -> Attach {
    Attach { target: Target::New(session), size: None }
}

fn to(id: &str) -> Attach {
    Attach { target: Target::Session { id: id.to_owned(), if_detached: false }, size: None }
}

fn ended(code: i32) -> Exited {
    Exited { code, signal: None, timed_out: false }
}

/// A client and what it has heard.
struct Client {
    stream: Stream,
    session: SessionInfo,
    created: bool,
    replay: u64,
    heard: Vec<u8>,
}

impl Client {
    async fn attach(host: &Session, attach: Attach) -> Self {
        let mut stream = open(host, &Request::Attach(attach)).await;
        match hear(&mut stream).await {
            Response::Attached { session, created, replay } => {
                Self { stream, session, created, replay, heard: Vec::new() }
            }
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, text: &str) {
        self.stream.send_data(FrameKind::Stdin, text.as_bytes()).await.unwrap();
    }

    async fn resize(&mut self, rows: u16, cols: u16) {
        let control = AttachControl::Resize(WindowSize { rows, cols });
        self.stream.send_json(&control).await.unwrap();
    }

    /// The answer that comes next, output before it being kept.
    async fn answer(&mut self) -> Response {
        loop {
            match next(&mut self.stream).await {
                Ok((FrameKind::Stdout, bytes)) => self.heard.extend(bytes),
                Ok(other) => panic!("{other:?}"),
                Err(response) => return response,
            }
        }
    }

    async fn until(&mut self, text: &str) {
        while !self.text().contains(text) {
            match next(&mut self.stream).await {
                Ok((_, bytes)) => self.heard.extend(bytes),
                Err(other) => panic!("{other:?} after {:?}", self.text()),
            }
        }
    }

    async fn bytes(&mut self, count: usize) {
        while self.heard.len() < count {
            self.heard.extend(next(&mut self.stream).await.unwrap().1);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }
}

async fn sessions(host: &Session) -> Vec<SessionInfo> {
    match ask(host, &Request::Sessions).await {
        Response::Sessions { sessions } => sessions,
        other => panic!("{other:?}"),
    }
}

/// Waits until the session is as wanted, with the guest's help: each question is a turn of its loop.
async fn until(host: &Session, id: &str, wanted: impl Fn(&SessionInfo) -> bool) -> SessionInfo {
    let wait = async {
        loop {
            let found = sessions(host).await.into_iter().find(|session| session.id == id);
            if let Some(session) = found.filter(|session| wanted(session)) {
                return session;
            }
        }
    };
    timeout(PATIENCE, wait).await.unwrap()
}

fn count_to(last: usize) -> String {
    (1..=last).map(|number| format!("{number}\r\n")).collect()
}

#[tokio::test]
async fn a_terminal_echoes_has_a_size_and_tells_of_the_end() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "test -t 0 && test -t 2 && stty size; echo $TERM; read x; echo got $x; \
                  stty size; trap 'stty size; exit 7' WINCH; echo ready; while :; do read y; done";
    let mut client = Client::attach(&host, new(program(script, true))).await;
    assert!(client.created && client.session.tty && client.session.attached);
    assert_eq!((client.session.id.as_str(), client.replay), ("s1", 0));
    client.until("24 80\r\nxterm-256color\r\n").await;
    client.resize(0, 7).await;
    client.resize(50, 132).await;
    client.say("hello\n").await;
    client.until("hello\r\ngot hello\r\n50 132\r\nready\r\n").await;
    client.resize(10, 20).await;
    assert_eq!(client.answer().await, Response::Exited(ended(7)));
    assert!(client.text().ends_with("10 20\r\n"), "{}", client.text());
    assert_eq!(sessions(&host).await, []);
    assert_eq!(guest.agent.activity().attached, 0);
}

#[tokio::test]
async fn without_a_command_it_is_the_login_shell() {
    let guest = Guest::new().await;
    let uid = rustix::process::getuid().as_raw();
    let passwd = format!("me:x:{uid}:{uid}::/:/bin/sh\n");
    std::fs::write(guest.path().join("etc/passwd"), passwd).unwrap();
    let host = guest.owned().await;
    let user = Some("me".to_owned());
    let session = NewSession { tty: true, user, ..NewSession::default() };
    let size = Some(WindowSize { rows: 30, cols: 99 });
    let attach = Attach { target: Target::NewestOr(session), size };
    let mut client = Client::attach(&host, attach).await;
    assert!(client.created);
    assert_eq!(client.session.argv, ["-sh"]);
    client.say("echo $0=$USER=$FROM; stty size; exit 3\n").await;
    client.until("-sh=me=sandbox\r\n30 99\r\n").await;
    assert_eq!(client.answer().await, Response::Exited(ended(3)));
}

#[tokio::test]
async fn clients_that_come_and_go_lose_and_repeat_nothing() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; echo end; read x";
    let mut client = Client::attach(&host, new(program(script, true))).await;
    let all = count_to(20_000) + "end\r\n";
    assert!(all.len() < RING_MAX);
    let id = client.session.id.clone();
    for turn in 1..=10 {
        // Some of it live, whenever it comes; all of it may have come before.
        let live = usize::try_from(client.replay).unwrap() + turn * 700;
        client.bytes(live.min(all.len())).await;
        assert!(all.as_bytes().starts_with(&client.heard), "{turn}");
        drop(client);
        until(&host, &id, |session| !session.attached).await;
        client = Client::attach(&host, to(&id)).await;
        assert!(!client.created);
    }
    client.until("end\r\n").await;
    assert_eq!(client.text(), all);
    drop(client);
    until(&host, &id, |session| !session.attached).await;
    let mut client = Client::attach(&host, to(&id)).await;
    assert_eq!(client.replay, all.len() as u64);
    client.say("\n").await;
    assert_eq!(client.answer().await, Response::Exited(ended(0)));
    assert_eq!(client.text(), all + "\r\n");
}

#[tokio::test]
async fn what_is_replayed_ends_where_the_rest_begins() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (go, full) = (fifo(&guest, "go"), fifo(&guest, "full"));
    let script = format!(
        "read x < {}; seq 100000; : > {}; read x < {}; seq 100001 200000",
        go.display(),
        full.display(),
        go.display()
    );
    let client = Client::attach(&host, new(program(&script, true))).await;
    let id = client.session.id.clone();
    drop(client);
    until(&host, &id, |session| !session.attached).await;
    tell(&go, "go\n").await;
    released(held(full).await).await;
    let mut client = Client::attach(&host, to(&id)).await;
    assert_eq!(client.replay, RING_MAX as u64);
    tell(&go, "go\n").await;
    assert_eq!(client.answer().await, Response::Exited(ended(0)));
    let all = count_to(200_000);
    let late = all.len() - count_to(100_000).len();
    // Not all of the first part need have been read when the client came.
    assert!(client.heard.len() >= RING_MAX + late, "{}", client.heard.len());
    assert!(all.as_bytes().ends_with(&client.heard));
}

#[tokio::test]
async fn a_second_client_takes_over_and_the_first_one_harms_nothing() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "echo begin; while read x; do echo got $x; done; echo over";
    let session = NewSession { max_idle_ms: Some(50), ..program(script, true) };
    let mut first = Client::attach(&host, new(session)).await;
    first.until("begin\r\n").await;
    let id = first.session.id.clone();
    let polite =
        Attach { target: Target::Session { id: id.clone(), if_detached: true }, size: None };
    assert_eq!(refused(&host, &Request::Attach(polite)).await, ErrorCode::Attached);
    let mut second = Client::attach(&host, to(&id)).await;
    assert_eq!(guest.agent.activity().attached, 1);
    let taken = Response::Detached { reason: DetachReason::TakenOver };
    assert_eq!(first.answer().await, taken);
    // Of a client that is out nothing counts any more, least of all that it leaves.
    let _ = first.stream.send_data(FrameKind::Stdin, b"stray\n").await;
    drop(first);
    second.say("one\n").await;
    second.until("got one\r\n").await;
    let elsewhere = Client::attach(&host, new(program("sleep 0.2", true))).await;
    drop(elsewhere);
    run(&host, shell("sleep 0.2")).await;
    second.say("two\n").await;
    second.until("got two\r\n").await;
    assert!(!second.text().contains("stray"));
    second.say("\u{4}").await;
    assert_eq!(second.answer().await, Response::Exited(ended(0)));
    assert_eq!(refused(&host, &Request::Attach(to(&id))).await, ErrorCode::UnknownSession);
}

#[tokio::test]
async fn the_newest_detached_terminal_is_found_and_nothing_else() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let newest = || Attach { target: Target::NewestOr(program("cat", true)), size: None };
    let init = Init { command: "cat".to_owned(), argv: Vec::new(), restart: RestartPolicy::No };
    assert_eq!(ask(&host, &Request::StartInit(init)).await, Response::Done);
    let one = Client::attach(&host, newest()).await;
    let two = Client::attach(&host, newest()).await;
    let three = Client::attach(&host, newest()).await;
    let piped = Client::attach(&host, new(program("cat", false))).await;
    let ids: Vec<_> = [&one, &two, &three, &piped].map(|client| client.session.id.clone()).into();
    assert_eq!(ids, ["s1", "s2", "s3", "s4"]);
    for (client, id) in [(one, "s1"), (two, "s2"), (piped, "s4")] {
        drop(client);
        until(&host, id, |session| !session.attached).await;
    }
    let found = Client::attach(&host, newest()).await;
    assert_eq!((found.session.id.as_str(), found.created), ("s2", false));
    let infos = sessions(&host).await;
    let attached: Vec<_> = infos.iter().map(|info| (info.id.as_str(), info.attached)).collect();
    let expected = [(INIT, false), ("s1", false), ("s2", true), ("s3", true), ("s4", false)];
    assert_eq!(attached, expected);
    for info in infos {
        ask(&host, &Request::Kill { id: info.id, signal: 9 }).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_its_program_down_and_nobody_else() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    for tty in [true, false] {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; exit 9";
        let mut slow = Client::attach(&host, new(program(script, tty))).await;
        let (stdout, _, _) = run(&host, shell("seq 100000 | tail -1")).await;
        assert_eq!(stdout, "100000\n");
        for _ in 0..50 {
            assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
        }
        let info = until(&host, &slow.session.id, |_| true).await;
        assert_eq!(info.exited, None);
        assert_eq!(slow.answer().await, Response::Exited(ended(9)));
        assert_eq!(slow.heard.len(), 3_000_000, "tty {tty}");
        assert!(slow.heard.iter().all(|byte| *byte == b'x'));
    }
}

#[tokio::test]
async fn a_client_that_is_taken_over_may_be_one_that_does_not_read() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "head -c 3000000 /dev/zero | tr '\\0' x";
    let stuck = Client::attach(&host, new(program(script, true))).await;
    run(&host, shell("sleep 0.1")).await;
    let mut second = Client::attach(&host, to(&stuck.session.id)).await;
    assert_eq!(second.answer().await, Response::Exited(ended(0)));
    drop(stuck);
}

#[tokio::test]
async fn the_end_waits_for_a_client_to_come_back_and_is_told_once() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let go = fifo(&guest, "go");
    let script = format!("read x < {}; echo last words; exit 4", go.display());
    let client = Client::attach(&host, new(program(&script, true))).await;
    let id = client.session.id.clone();
    // The whole session with the host is lost, as at a stop.
    host.close();
    drop(client);
    timeout(PATIENCE, host.closed()).await.unwrap();
    let host = guest.owned().await;
    until(&host, &id, |session| !session.attached).await;
    tell(&go, "go\n").await;
    let info = until(&host, &id, |session| session.exited.is_some()).await;
    assert_eq!(info.exited, Some(ended(4)));
    let mut back = Client::attach(&host, to(&id)).await;
    assert_eq!(back.answer().await, Response::Exited(ended(4)));
    assert_eq!(back.text(), "last words\r\n");
    assert_eq!(refused(&host, &Request::Attach(to(&id))).await, ErrorCode::UnknownSession);
}

#[tokio::test]
async fn only_the_newest_that_ended_are_kept() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    for number in 1..=super::ENDED_MAX + 2 {
        let go = fifo(&guest, &format!("go{number}"));
        let script = format!("read x < {}", go.display());
        let client = Client::attach(&host, new(program(&script, false))).await;
        let id = client.session.id.clone();
        drop(client);
        until(&host, &id, |session| !session.attached).await;
        tell(&go, "go\n").await;
        until(&host, &id, |session| session.exited.is_some()).await;
    }
    let ids: Vec<_> = sessions(&host).await.into_iter().map(|session| session.id).collect();
    assert_eq!((ids.len(), ids[0].as_str()), (super::ENDED_MAX, "s3"));
}

#[tokio::test]
async fn a_session_without_a_client_for_too_long_is_ended() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let pipe = fifo(&guest, "held");
    let script = format!("exec 9> {}; echo up; while :; do read x; done", pipe.display());
    let session = NewSession { max_idle_ms: Some(1), ..program(&script, true) };
    let mut client = Client::attach(&host, new(session)).await;
    let pipe = held(pipe).await;
    client.until("up\r\n").await;
    run(&host, shell("sleep 0.1")).await;
    assert_eq!(sessions(&host).await[0].exited, None, "it has a client");
    let id = client.session.id.clone();
    drop(client);
    released(pipe).await;
    let info = until(&host, &id, |session| session.exited.is_some()).await;
    assert_eq!(info.exited.unwrap().signal, Some(1));
}

#[tokio::test]
async fn a_killed_session_takes_all_of_its_processes_along() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let pipe = fifo(&guest, "held");
    // Job control puts the two into process groups of their own.
    let script = format!("set -m; trap '' HUP; sleep 1000 > {} & echo up; cat", pipe.display());
    let mut client = Client::attach(&host, new(program(&script, true))).await;
    client.until("up\r\n").await;
    let pipe = held(pipe).await;
    let id = client.session.id.clone();
    assert_eq!(ask(&host, &Request::Kill { id: id.clone(), signal: 9 }).await, Response::Done);
    released(pipe).await;
    let killed = Exited { code: 137, signal: Some(9), timed_out: false };
    assert_eq!(client.answer().await, Response::Exited(killed));
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let with = |argv: &str| NewSession { argv: vec![argv.to_owned()], ..program("", true) };
    let lost = NewSession { cwd: Some("/no/such".to_owned()), ..program("", true) };
    let nobody = NewSession { user: Some("nobody-here".to_owned()), ..program("", false) };
    for (attach, expected) in [
        (new(with("/no/such")), ErrorCode::CommandNotFound),
        (new(with("/")), ErrorCode::CommandNotExecutable),
        (new(lost), ErrorCode::NotFound),
        (new(nobody), ErrorCode::UnknownUser),
        (to("s1"), ErrorCode::UnknownSession),
        (to(""), ErrorCode::UnknownSession),
    ] {
        assert_eq!(refused(&host, &Request::Attach(attach)).await, expected);
    }
    let mut clients = Vec::new();
    for _ in 0..super::SESSIONS_MAX {
        clients.push(Client::attach(&host, new(program("cat", true))).await);
    }
    assert_eq!(guest.agent.activity().attached as usize, super::SESSIONS_MAX);
    let one_more = Request::Attach(new(program("cat", true)));
    assert_eq!(refused(&host, &one_more).await, ErrorCode::Limit);
    assert_eq!(run(&host, shell("echo yes")).await.0, "yes\n");
    for client in clients {
        ask(&host, &Request::Kill { id: client.session.id.clone(), signal: 9 }).await;
    }
}

#[tokio::test]
async fn attachments_are_told_as_activity() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut watch = open(&host, &Request::ActivityWatch).await;
    let mut attached = async || match hear(&mut watch).await {
        Response::Activity(activity) => activity.attached,
        other => panic!("{other:?}"),
    };
    assert_eq!(attached().await, 0);
    let mut client = Client::attach(&host, new(program("cat", true))).await;
    assert_eq!(attached().await, 1);
    client.say("\u{4}").await;
    assert_eq!(client.answer().await, Response::Exited(ended(0)));
    assert_eq!(attached().await, 0);
    drop(watch);
    // A moment that passes only if nobody waits for the watcher.
    timeout(Duration::from_secs(5), run(&host, shell("true"))).await.unwrap();
}
