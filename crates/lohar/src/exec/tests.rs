use std::fs;
use std::os::unix::fs::PermissionsExt;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, Exec, Exited, Request, Response};
use rustix::process::{Pid, test_kill_process};
use tokio::time::timeout;

use crate::testing::{Guest, PATIENCE, ask, fifo, hear, held, open, outcome, released, run, shell};

mod defaults;

fn ended(code: i32) -> Exited {
    Exited { code, signal: None, timed_out: false }
}

#[tokio::test]
async fn output_and_status_of_a_command_arrive_exactly() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let got = run(&host, shell("printf 'a\\nb'; printf oops >&2; exit 7")).await;
    assert_eq!(got, ("a\nb".to_owned(), "oops".to_owned(), ended(7)));
    let (_, _, exited) = run(&host, shell("kill -9 $$")).await;
    assert_eq!(exited, Exited { code: 137, signal: Some(9), timed_out: false });
    assert_eq!(guest.agent.activity().running, 0);
}

#[tokio::test]
async fn the_environment_is_layered() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut exec = shell("echo $FROM $MORE $LANG; umask; pwd; ulimit -n >/dev/null; cat");
    exec.env.insert("MORE".to_owned(), "request".to_owned());
    let (stdout, _, exited) = run(&host, exec.clone()).await;
    assert!(stdout.starts_with("sandbox request C.UTF-8\n"), "{stdout}");
    assert!(stdout.ends_with("\n/\n"), "{stdout}");
    assert_eq!(exited, ended(0));
    exec.env.insert("FROM".to_owned(), "request".to_owned());
    assert!(run(&host, exec).await.0.starts_with("request request"));
}

#[tokio::test]
async fn what_cannot_be_run_says_why() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let plain = guest.path().join("plain");
    fs::write(&plain, "text").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let with = |argv: &[&str]| Exec {
        argv: argv.iter().map(|&text| text.to_owned()).collect(),
        ..shell("")
    };
    let plain = plain.to_str().unwrap();
    for (exec, expected) in [
        (with(&["no-such-command"]), ErrorCode::CommandNotFound),
        (with(&["/no/such/command"]), ErrorCode::CommandNotFound),
        (with(&[plain]), ErrorCode::CommandNotExecutable),
        (with(&["/"]), ErrorCode::CommandNotExecutable),
        (with(&[]), ErrorCode::Invalid),
        (with(&["true", "a\0b"]), ErrorCode::Invalid),
        (Exec { user: Some("nobody-here".to_owned()), ..shell("") }, ErrorCode::UnknownUser),
        (Exec { cwd: Some("/no/such".to_owned()), ..shell("") }, ErrorCode::NotFound),
        (Exec { cwd: Some(plain.to_owned()), ..shell("") }, ErrorCode::NotDirectory),
    ] {
        match ask(&host, &Request::Exec(exec.clone())).await {
            Response::Error(error) => assert_eq!(error.code, expected, "{exec:?}: {error}"),
            other => panic!("{exec:?}: {other:?}"),
        }
    }
    assert_eq!(guest.agent.activity().running, 0);
}

#[tokio::test]
async fn input_is_streamed_and_closed() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut stream = open(&host, &Request::Exec(Exec { stdin: true, ..shell("cat") })).await;
    let data: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let sent = data.clone();
    let (mut send, mut recv) = stream_split(&mut stream, &host).await;
    let sending = tokio::spawn(async move {
        send.send_data(FrameKind::Stdin, &sent).await.unwrap();
        send.send_data(FrameKind::Stdin, &[]).await.unwrap();
        send
    });
    let mut got = Vec::new();
    loop {
        let frame = timeout(PATIENCE, recv.recv()).await.unwrap().unwrap().unwrap();
        if frame.kind == FrameKind::Stdout {
            got.extend(frame.payload);
        } else if String::from_utf8_lossy(&frame.payload).contains("exited") {
            break;
        }
    }
    assert!(got == data, "{} bytes came back of {}", got.len(), data.len());
    sending.await.unwrap();
}

/// Takes the stream apart, leaving a new one that nobody uses.
async fn stream_split(
    stream: &mut proto::mux::Stream,
    host: &proto::mux::Session,
) -> (proto::mux::SendHalf, proto::mux::RecvHalf) {
    std::mem::replace(stream, host.open().await.unwrap()).split()
}

#[tokio::test]
async fn input_that_a_command_does_not_take_is_dropped() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let exec = Exec { stdin: true, ..shell("exec 0<&-; sleep 0.05; echo done") };
    let mut stream = open(&host, &Request::Exec(exec)).await;
    for _ in 0..10 {
        stream.send_data(FrameKind::Stdin, &[7; 10_000]).await.unwrap();
    }
    let (stdout, _, exited) = outcome(&mut stream).await;
    assert_eq!((stdout.as_slice(), exited), (b"done\n".as_slice(), ended(0)));
}

#[tokio::test]
async fn a_timeout_kills_the_group_and_keeps_the_output() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let pipe = fifo(&guest, "held");
    let script = format!("echo before; sleep 1000 > {} & wait", pipe.display());
    let exec = Exec { timeout_ms: Some(1000), ..shell(&script) };
    let mut stream = open(&host, &Request::Exec(exec)).await;
    let pipe = held(pipe).await;
    let (stdout, _, exited) = outcome(&mut stream).await;
    released(pipe).await;
    assert_eq!(stdout, b"before\n");
    assert_eq!(exited, Exited { code: 137, signal: Some(9), timed_out: true });
}

#[tokio::test]
async fn a_background_child_neither_delays_the_end_nor_dies_of_it() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (go, done) = (fifo(&guest, "go"), fifo(&guest, "done"));
    let script = format!(
        "(read x < {}; echo late; echo late >&2; echo fine > {}) & echo now",
        go.display(),
        done.display()
    );
    let (stdout, _, exited) = run(&host, shell(&script)).await;
    assert_eq!((stdout.as_str(), exited), ("now\n", ended(0)));
    let told = tokio::task::spawn_blocking(move || {
        fs::write(go, "go\n").unwrap();
        fs::read_to_string(done).unwrap()
    });
    assert_eq!(timeout(PATIENCE, told).await.unwrap().unwrap(), "fine\n");
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_command_along() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    // One that reads nothing while input is waiting for it is the hard case.
    for stdin in [false, true] {
        let pipe = fifo(&guest, if stdin { "a" } else { "b" });
        let script = format!("exec sleep 1000 > {}", pipe.display());
        let mut stream = open(&host, &Request::Exec(Exec { stdin, ..shell(&script) })).await;
        assert!(matches!(hear(&mut stream).await, Response::Started { .. }));
        if stdin {
            stream.send_data(FrameKind::Stdin, &[0; 200_000]).await.unwrap();
        }
        let pipe = held(pipe).await;
        drop(stream);
        released(pipe).await;
    }
}

#[tokio::test]
async fn a_lost_session_leaves_commands_running() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (go, done) = (fifo(&guest, "go"), fifo(&guest, "done"));
    // More output than a pipe holds, with nobody to read it.
    let script = format!(
        "read x < {}; head -c 300000 /dev/zero; echo fine > {}",
        go.display(),
        done.display()
    );
    let mut stream = open(&host, &Request::Exec(shell(&script))).await;
    let Response::Started { pid, .. } = hear(&mut stream).await else { panic!() };
    host.close();
    timeout(PATIENCE, host.closed()).await.unwrap();
    let again = guest.owned().await;
    assert_eq!(guest.agent.activity().running, 0);
    test_kill_process(Pid::from_raw(pid).unwrap()).unwrap();
    let told = tokio::task::spawn_blocking(move || {
        fs::write(go, "go\n").unwrap();
        fs::read_to_string(done).unwrap()
    });
    assert_eq!(timeout(PATIENCE, told).await.unwrap().unwrap(), "fine\n");
    assert_eq!(ask(&again, &Request::Ping).await, Response::Done);
}

#[tokio::test]
async fn a_hundred_commands_at_once_each_get_their_own_status() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut commands = Vec::new();
    for code in 0..100 {
        let host = host.clone();
        let script = format!("(exit 3) & echo {code}; exit {code}");
        commands.push(tokio::spawn(async move { run(&host, shell(&script)).await }));
    }
    for (code, command) in (0..100).zip(commands) {
        let (stdout, _, exited) = timeout(PATIENCE, command).await.unwrap().unwrap();
        assert_eq!((stdout, exited), (format!("{code}\n"), ended(code)));
    }
}

#[tokio::test]
async fn output_goes_at_the_pace_of_the_reader_and_questions_are_answered_meanwhile() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut big = open(&host, &Request::Exec(shell("head -c 5000000 /dev/zero"))).await;
    assert!(matches!(hear(&mut big).await, Response::Started { .. }));
    for _ in 0..20 {
        assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    }
    let Response::Activity(activity) = ask(&host, &Request::Activity).await else { panic!() };
    assert_eq!(activity.running, 1);
    let (stdout, _, exited) = outcome(&mut big).await;
    assert_eq!((stdout.len(), exited), (5_000_000, ended(0)));
}

#[tokio::test]
async fn the_floor_of_an_exec_can_be_measured() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let Response::SpawnTimed { nanos } = ask(&host, &Request::TimeSpawn).await else { panic!() };
    assert!((10_000..10_000_000_000).contains(&nanos), "{nanos}");
}
