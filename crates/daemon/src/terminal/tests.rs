use futures_util::stream::{SplitSink, SplitStream};
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const TIMES: Times = Times {
    ping: Duration::from_millis(20),
    gone: Duration::from_secs(60),
    close: Duration::from_secs(5),
};

/// A place in a session made of what a test does.
struct FakePlace {
    events: mpsc::Receiver<AttachEvent>,
    typing: Option<FakeTyping>,
    _alive: mpsc::Sender<()>,
}

struct FakeTyping(mpsc::Sender<Said>);

impl Attached for FakePlace {
    type Input = FakeTyping;

    async fn next(&mut self) -> orchestrator::Result<AttachEvent> {
        let kind = orchestrator::Kind::AgentUnreachable;
        let lost = || orchestrator::Error::new(kind, "the sandbox was stopped").hint("shell");
        self.events.recv().await.ok_or_else(lost)
    }

    fn take_input(&mut self) -> Option<FakeTyping> {
        self.typing.take()
    }
}

impl Typing for FakeTyping {
    async fn act(&mut self, said: Said) -> orchestrator::Result<()> {
        let gone =
            |_| orchestrator::Error::new(orchestrator::Kind::AgentUnreachable, "it has ended");
        self.0.send(said).await.map_err(gone)
    }
}

/// Everything around a served client.
struct Scene {
    client: WebSocketStream<DuplexStream>,
    events: mpsc::Sender<AttachEvent>,
    said: mpsc::Receiver<Said>,
    /// Ends when the place is free.
    alive: mpsc::Receiver<()>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

async fn scene(times: Times, tty: bool) -> Scene {
    let (client, server) = duplex(1 << 10);
    let (stop, stopping) = watch::channel(false);
    let (events, told) = mpsc::channel(1);
    let (typed, said) = mpsc::channel(1);
    let (held, alive) = mpsc::channel(1);
    let attachment = FakePlace { events: told, typing: Some(FakeTyping(typed)), _alive: held };
    let served = tokio::spawn(async move {
        let hello = ServerMessage::Session {
            session_id: "s1".to_owned(),
            created: true,
            replay_bytes: 0,
            place: None,
        };
        let explain = |error| Failure::from(error).report(&crate::app::RequestId::new());
        let talk = Talk::over(server, stopping, times).await;
        talk.serve(Place { attachment, hello, tty, explain: &explain }).await;
    });
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    Scene { client, events, said, alive, stop, served }
}

impl Scene {
    /// The next message that is no ping.
    async fn next(&mut self) -> Message {
        loop {
            let message = timeout(PATIENCE, self.client.next()).await.unwrap().unwrap().unwrap();
            if !message.is_ping() {
                return message;
            }
        }
    }

    async fn server_says(&mut self) -> ServerMessage {
        serde_json::from_str(self.next().await.to_text().unwrap()).unwrap()
    }

    async fn close_code(&mut self) -> CloseCode {
        match self.next().await {
            Message::Close(Some(frame)) => frame.code,
            other => panic!("{other:?}"),
        }
    }

    async fn is_over(&mut self) {
        while let Some(Ok(_)) = timeout(PATIENCE, self.client.next()).await.unwrap() {}
        timeout(PATIENCE, &mut self.served).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_both_sides_say_arrives_and_the_end_is_told() {
    let mut scene = scene(TIMES, true).await;
    assert!(matches!(scene.server_says().await, ServerMessage::Session { created: true, .. }));
    let size = r#"{"type":"resize","rows":2,"cols":3}"#;
    for message in [
        Message::binary(&b"\xff"[..]),
        Message::text("ls\n"),
        Message::text(""),
        Message::text(r#"{"type":"eof"}"#),
        Message::text(size),
        Message::text(r#"{"type":"other"}"#),
    ] {
        scene.client.send(message).await.unwrap();
    }
    let heard = [
        Said::Input(Bytes::from_static(b"\xff")),
        Said::Input(Bytes::from_static(b"ls\n")),
        Said::Resize(guest::WindowSize { rows: 2, cols: 3 }),
        Said::Input(Bytes::from_static(br#"{"type":"other"}"#)),
    ];
    for said in heard {
        assert_eq!(timeout(PATIENCE, scene.said.recv()).await.unwrap().unwrap(), said);
    }
    scene.events.send(AttachEvent::Output(b"out\xfe".to_vec())).await.unwrap();
    assert_eq!(scene.next().await, Message::binary(&b"out\xfe"[..]));
    let exited = guest::Exited { code: 137, signal: Some(9), timed_out: false };
    scene.events.send(AttachEvent::Exited(exited)).await.unwrap();
    assert_eq!(scene.server_says().await, ServerMessage::Exit { exit_code: 137 });
    assert_eq!(scene.close_code().await, CloseCode::Normal);
    scene.is_over().await;
}

#[tokio::test]
async fn a_client_that_is_taken_over_or_loses_the_sandbox_is_told() {
    let mut scene = scene(TIMES, true).await;
    scene.server_says().await;
    let taken = AttachEvent::Detached(guest::DetachReason::TakenOver);
    scene.events.send(taken).await.unwrap();
    let reason = "taken_over".to_owned();
    assert_eq!(scene.server_says().await, ServerMessage::Detached { reason });
    // The session is free although the client has not answered the close.
    assert_eq!(timeout(PATIENCE, scene.alive.recv()).await.unwrap(), None);
    assert_eq!(scene.close_code().await, CloseCode::Normal);
    scene.is_over().await;

    let mut scene = self::scene(TIMES, true).await;
    scene.server_says().await;
    drop(scene.events);
    scene.events = mpsc::channel(1).0;
    let ServerMessage::Error(error) = scene.server_says().await else { panic!() };
    assert_eq!(error.code, ErrorCode::AgentUnreachable);
    assert_eq!(error.hint.as_deref(), Some("shell"));
    assert_eq!(scene.close_code().await, CloseCode::Error);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    for politely in [true, false] {
        let mut scene = scene(TIMES, true).await;
        scene.server_says().await;
        if politely {
            scene.client.close(None).await.unwrap();
            scene.is_over().await;
        } else {
            let Scene { client, served, .. } = scene;
            drop(client);
            timeout(PATIENCE, served).await.unwrap().unwrap();
            continue;
        }
        assert_eq!(timeout(PATIENCE, scene.alive.recv()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_daemon_that_ends_says_so() {
    let mut scene = scene(TIMES, true).await;
    scene.server_says().await;
    scene.stop.send_replace(true);
    assert_eq!(scene.close_code().await, CloseCode::Away);
    scene.is_over().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_connection() {
    let mut scene = scene(TIMES, true).await;
    scene.server_says().await;
    let (mut sink, mut stream): (SplitSink<_, _>, SplitStream<_>) = scene.client.split();
    let send = async {
        let _ = sink.send(Message::binary(vec![0; MESSAGE_MAX + 1])).await;
    };
    let read = async {
        loop {
            match timeout(PATIENCE, stream.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code,
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let code = tokio::select! { code = read => code, () = async { send.await; std::future::pending().await } => unreachable!() };
    assert_eq!(code, CloseCode::Size);
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_and_one_that_is_silent_goes() {
    let short = Duration::from_secs(1);
    let mut scene = scene(Times { gone: short, ..TIMES }, true).await;
    scene.server_says().await;
    // Reading is what makes the library answer pings.
    let stay = async { while scene.client.next().await.is_some() {} };
    timeout(3 * short, stay).await.unwrap_err();
    assert!(!scene.served.is_finished());
    timeout(PATIENCE, &mut scene.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_reader_is_not_taken_for_gone() {
    let short = Duration::from_secs(2);
    let times = Times { ping: PATIENCE, gone: short, ..TIMES };
    let mut scene = scene(times, true).await;
    scene.server_says().await;
    let events = scene.events.clone();
    let flood = tokio::spawn(async move {
        while events.send(AttachEvent::Output(vec![b'x'; 1 << 10])).await.is_ok() {}
    });
    // Takes one message a while, and never says anything.
    for _ in 0..20 {
        assert!(scene.next().await.is_binary());
        let _ = timeout(short / 16, std::future::pending::<()>()).await;
    }
    assert!(!scene.served.is_finished());
    // Having stopped reading, it goes.
    timeout(PATIENCE, &mut scene.served).await.unwrap().unwrap();
    timeout(PATIENCE, flood).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_up_its_input_and_nothing_else() {
    let short = Duration::from_secs(1);
    let mut scene = scene(Times { gone: short, ..TIMES }, false).await;
    scene.server_says().await;
    for _ in 0..3 {
        scene.client.send(Message::text("x")).await.unwrap();
    }
    scene.client.send(Message::text(r#"{"type":"eof"}"#)).await.unwrap();
    // Input waits, so nothing is heard from the client; output still comes.
    let _ = timeout(2 * short, std::future::pending::<()>()).await;
    scene.events.send(AttachEvent::Output(b"out".to_vec())).await.unwrap();
    assert_eq!(scene.next().await, Message::binary(&b"out"[..]));
    for _ in 0..3 {
        assert!(matches!(scene.said.recv().await, Some(Said::Input(_))));
    }
    assert_eq!(scene.said.recv().await, Some(Said::Eof));
}
