//! Terminals and other programs that clients leave and come back to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{ClientMessage, ErrorCode, ExecSession, ServerMessage};
use e2e::{Guest, Node, Terminal, refused, signal};

/// A command line whose echo does not contain what it prints.
fn print(word: &str) -> String {
    format!("echo {}''{}\n", &word[..1], &word[1..])
}

#[tokio::test]
async fn a_shell_is_a_login_shell_on_a_terminal_of_the_client_s_size() {
    let node = Node::start();
    let guest = Guest::create(&node, "dev").await;
    let mut shell = Terminal::open(&guest, "rows=40&cols=132").await;
    assert!(shell.created);
    shell.type_in("stty size; tty; echo $TERM $0 $USER $((6*7))\n").await;
    let said = shell.until(" 42\r\n").await;
    assert!(said.contains("40 132\r\n") && said.contains("/dev/pts/"), "{said:?}");
    assert!(said.contains("xterm-256color -"), "{said:?}");
    shell.say(&ClientMessage::Resize { rows: 50, cols: 100 }).await;
    shell.type_in("stty size\n").await;
    shell.until("50 100\r\n").await;
    // Keys are keys: an interrupt reaches what runs in the foreground and nothing else.
    shell.type_in("trap 'echo no' INT; sh -c 'sleep 1000'; echo c''ode $?\n").await;
    let mut looking = guest.by(node.admin());
    looking.sh("until pidof sleep; do usleep 1000; done").await;
    shell.type_in("\x03").await;
    shell.until("code 130\r\n").await;
    shell.type_in("exit 3\n").await;
    assert_eq!(shell.end().await, Some(ServerMessage::Exit { exit_code: 3 }));
}

#[tokio::test]
async fn a_session_goes_on_while_nobody_looks_and_nothing_is_lost_or_told_twice() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut shell = Terminal::open(&guest, "new=true").await;
    let session = shell.session.clone();
    shell.type_in("stty -echo; n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo \"<$n>\"; usleep 3000; done; exit 9\n").await;
    shell.until("<1>\r\n").await;
    let mut seen = 1;
    for cycle in 0..10 {
        let upto = format!("<{}>\r\n", seen + 5);
        let said = shell.until(&upto).await;
        for line in said.lines() {
            seen += 1;
            assert_eq!(line, format!("<{seen}>"), "cycle {cycle}");
        }
        if cycle % 2 == 0 {
            shell.close().await;
        } else {
            drop(shell);
        }
        shell = Terminal::open(&guest, &format!("session={session}")).await;
        assert!(!shell.created && shell.session == session);
        let replay = String::from_utf8(shell.replayed().await).unwrap();
        // All that was shown before is there again, in order; what is new follows it.
        let old = format!("<{seen}>\r\n");
        let at = replay.find(&old).unwrap_or_else(|| panic!("{seen} is not replayed: {replay:?}"));
        for line in replay[at + old.len()..].split_inclusive("\r\n") {
            seen += 1;
            let expected = format!("<{seen}>\r\n");
            if line != expected {
                // A line that was cut where the replay ends.
                assert!(expected.starts_with(line), "{line:?} instead of {expected:?}");
                let rest = shell.until("\r\n").await;
                assert_eq!(format!("{line}{rest}"), expected);
            }
        }
    }
    guest.sh("touch /tmp/enough").await;
    assert_eq!(shell.end().await, Some(ServerMessage::Exit { exit_code: 9 }));
}

#[tokio::test]
async fn another_client_takes_over_and_the_first_is_told() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut first = Terminal::open(&guest, "new=true").await;
    first.type_in(print("ready")).await;
    first.until("ready\r\n").await;
    let path = format!("/sandboxes/{}/ws?session={}&if_detached=true", guest.id, first.session);
    let held = refused(guest.client.websocket(&path).await.map(drop));
    assert_eq!(held.code, ErrorCode::SessionAttached);
    let mut second = Terminal::open(&guest, &format!("session={}", first.session)).await;
    let reason = "taken_over".to_owned();
    assert_eq!(first.end().await, Some(ServerMessage::Detached { reason }));
    drop(first);
    let replay = String::from_utf8(second.replayed().await).unwrap();
    assert!(replay.contains("ready\r\n"));
    // The first one's leaving has not touched the second.
    second.type_in(print("alive")).await;
    second.until("alive\r\n").await;
    let sessions = guest.client.sessions(&guest.id).await.unwrap();
    assert_eq!((sessions.len(), sessions[0].attached, sessions[0].running), (1, true, true));
    // Without a wish, the newest that nobody has is taken, else a new one.
    let other = Terminal::open(&guest, "").await;
    assert!(other.created && other.session != second.session);
    let newest = other.session.clone();
    other.close().await;
    e2e::until("the session has no client", async || {
        let sessions = guest.client.sessions(&guest.id).await.unwrap();
        sessions.iter().any(|s| s.session_id == newest && !s.attached).then_some(())
    })
    .await;
    let again = Terminal::open(&guest, "").await;
    assert_eq!((again.created, &again.session), (false, &newest));
    let path = format!("/sandboxes/{}/ws?session=s99", guest.id);
    let missing = refused(guest.client.websocket(&path).await.map(drop));
    assert_eq!(missing.code, ErrorCode::SessionNotFound);
}

#[tokio::test]
async fn a_session_survives_stop_and_the_daemon_s_death() {
    let mut node = Node::start();
    // Of the client that is attached when it is stopped.
    node.expect_warning("code=agent_unreachable");
    let mut guest = Guest::create(&node, "dev").await;
    let mut shell = Terminal::open(&guest, "new=true").await;
    let session = shell.session.clone();
    shell.type_in(format!("secret=kept; {}", print("ready"))).await;
    shell.until("ready\r\n").await;
    guest.stop().await;
    let Some(ServerMessage::Error(body)) = shell.end().await else { panic!("{:?}", shell.last) };
    assert_eq!(body.code, ErrorCode::AgentUnreachable);
    let mut shell = Terminal::open(&guest, &format!("session={session}")).await;
    assert!(String::from_utf8(shell.replayed().await).unwrap().contains("ready\r\n"));
    shell.type_in("echo \"<$secret>\"\n").await;
    shell.until("<kept>\r\n").await;
    node.kill9();
    node.restart();
    guest.client = node.admin();
    let mut shell = Terminal::open(&guest, "").await;
    assert_eq!((shell.created, &shell.session), (false, &session));
    shell.replayed().await;
    shell.type_in("echo \"<$secret>\"\n").await;
    shell.until("<kept>\r\n").await;
    guest.client.session_kill(&guest.id, &session, &signal("KILL")).await.unwrap();
    assert_eq!(shell.end().await, Some(ServerMessage::Exit { exit_code: 137 }));
}

#[tokio::test]
async fn much_output_reaches_a_slow_client_whole() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut shell = Terminal::open(&guest, "new=true").await;
    shell.type_in("stty raw -echo; echo st''art; seq 1 200000; echo e''nd\n").await;
    shell.until("start\n").await;
    // Others are served while this client reads nothing.
    for _ in 0..5 {
        assert_eq!(guest.sh("echo here").await, "here");
    }
    let said = shell.until("end\n").await;
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(
        said == format!("{expected}end\n"),
        "{} bytes instead of {}",
        said.len(),
        expected.len()
    );
}

#[tokio::test]
async fn a_session_that_nobody_comes_back_to_ends_by_itself() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let shell = Terminal::open(&guest, "new=true&max_idle_sec=1").await;
    let session = shell.session.clone();
    drop(shell);
    e2e::until("the session has ended", async || {
        let sessions = guest.client.sessions(&guest.id).await.unwrap();
        sessions.iter().all(|s| s.session_id != session || !s.running).then_some(())
    })
    .await;
    let mut ended = Terminal::open(&guest, &format!("session={session}")).await;
    assert!(matches!(ended.end().await, Some(ServerMessage::Exit { exit_code: 128.. })));
}

#[tokio::test]
async fn a_program_on_pipes_is_left_and_joined_like_a_terminal() {
    let node = Node::start();
    let guest = Guest::create(&node, "dev").await;
    let command = |script: &str| ExecSession {
        cmd: ["sh", "-c", script].map(str::to_owned).into(),
        ..ExecSession::default()
    };
    let mut program = Terminal::exec(&guest, &command("echo out; echo err >&2; cat; exit 5")).await;
    program.until("out\nerr\n").await;
    program.type_in(vec![0, 0xff, 0xfe]).await;
    while program.pending.len() < 3 {
        program.wait().await;
    }
    assert_eq!(program.pending, [0, 0xff, 0xfe]);
    let session = program.session.clone();
    drop(program);
    let mut program = Terminal::open(&guest, &format!("session={session}")).await;
    assert_eq!(program.replayed().await, b"out\nerr\n\x00\xff\xfe");
    program.say(&ClientMessage::Eof).await;
    assert_eq!(program.end().await, Some(ServerMessage::Exit { exit_code: 5 }));
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_terminal() {
    let node = Node::start();
    let guest = Guest::create(&node, "dev").await;
    let path = format!("/sandboxes/{}/ws", guest.id);
    let headers = [
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "origin: http://evil.example",
    ];
    let answer = e2e::raw::unix_with(&node.socket(), "GET", &path, &headers).await;
    assert_eq!((answer.status, answer.error().code), (403, ErrorCode::Forbidden));
}
