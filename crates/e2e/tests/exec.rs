//! Running commands.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{CreateSandbox, ErrorCode, ExecRequest, StreamEvent};
use e2e::{Guest, Node, create_request, raw, refused, root, sh};

/// The output so far, and how it ended.
async fn streamed(guest: &mut Guest, request: &ExecRequest) -> (Vec<u8>, Vec<u8>, StreamEvent) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut events = guest.client.exec_stream(&guest.id, request).await.unwrap();
    let first = events.next().await.unwrap();
    assert!(matches!(first, Some(StreamEvent::Started { pid: 1.., .. })), "{first:?}");
    loop {
        match events.next().await.unwrap().expect("a last event") {
            StreamEvent::Stdout(payload) => stdout.extend(payload.into_bytes().unwrap()),
            StreamEvent::Stderr(payload) => stderr.extend(payload.into_bytes().unwrap()),
            last => return (stdout, stderr, last),
        }
    }
}

fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

#[tokio::test]
async fn a_command_ends_with_its_own_code_or_its_signal() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
    ] {
        let answer = guest.exec(&sh(script)).await.unwrap();
        assert_eq!((answer.exit_code, answer.timed_out), (code, false), "{script}");
        let (_, _, last) = streamed(&mut guest, &sh(script)).await;
        assert_eq!(last, StreamEvent::Exit { exit_code: code, timed_out: false }, "{script}");
    }
}

#[tokio::test]
async fn output_is_exact_and_the_two_streams_stay_apart() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let both = guest.exec(&sh("echo out; echo err >&2; printf last")).await.unwrap();
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\nlast", "err\n"));
    assert_eq!((both.stdout_b64, both.truncated), (None, false));

    let mut request = sh("cat > /tmp/in; cat /tmp/in; cat /tmp/in >&2");
    request.set_stdin(&all_bytes());
    let answer = guest.exec(&request).await.unwrap();
    assert_eq!(answer.stdout_bytes().unwrap(), all_bytes());
    assert!(answer.stderr_b64.is_some());
    let (stdout, stderr, _) = streamed(&mut guest, &request).await;
    assert_eq!((stdout, stderr), (all_bytes(), all_bytes()));

    let nothing = guest.exec(&sh("true")).await.unwrap();
    assert_eq!((nothing.stdout.as_str(), nothing.stderr.as_str()), ("", ""));
}

#[tokio::test]
async fn a_command_can_open_its_own_streams_by_name() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut request = sh("cat /dev/stdin > /dev/stdout && echo err > /dev/stderr");
    request.set_stdin(b"in");
    for user in [None, Some("root".to_owned()), Some("nobody".to_owned())] {
        request.user.clone_from(&user);
        let answer = guest.exec(&request).await.unwrap();
        assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("in", "err\n"), "{user:?}");
    }
}

#[tokio::test]
async fn much_output_arrives_whole_in_a_stream_and_cut_in_an_answer() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let make =
        "dd if=/dev/urandom of=/tmp/big bs=65536 count=176 2>/dev/null && sha256sum /tmp/big";
    let sum = guest.sh(make).await;
    let (stdout, _, last) = streamed(&mut guest, &sh("cat /tmp/big")).await;
    assert_eq!(last, StreamEvent::Exit { exit_code: 0, timed_out: false });
    assert_eq!(stdout.len(), 11 << 20);
    assert_eq!(base::hash::bytes(&stdout), sum[..64]);
    let answer = guest.exec(&sh("cat /tmp/big; echo $? >&2")).await.unwrap();
    assert!(answer.truncated);
    assert_eq!(answer.stdout_bytes().unwrap(), stdout[..10 << 20]);
    assert_eq!((answer.exit_code, answer.stderr.as_str()), (0, "0\n"), "the command was held up");
}

#[tokio::test]
async fn input_of_5_mb_comes_back_byte_for_byte() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    // Text and not: every value, in an order that no buffer size divides.
    let input: Vec<u8> =
        (0..5_u32 << 20).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut request = sh("cat");
    request.set_stdin(&input);
    let answer = guest.exec(&request).await.unwrap();
    assert_eq!(base::hash::bytes(&answer.stdout_bytes().unwrap()), base::hash::bytes(&input));
    // A command that reads nothing of it ends all the same.
    request.cmd = ["sh", "-c", "exec <&-; echo done"].map(str::to_owned).into();
    assert_eq!(guest.exec(&request).await.unwrap().stdout, "done\n");
    assert_eq!(guest.sh("cat; echo end").await, "end", "no input is an input that has ended");
}

#[tokio::test]
async fn a_command_has_the_environment_directory_and_user_that_were_asked_for() {
    let node = Node::start();
    let env = [("FROM_SANDBOX", "s"), ("BOTH", "s")];
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let request = CreateSandbox { env, ..create_request("dev") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    let mut request = sh("echo $FROM_SANDBOX,$BOTH,$OWN,$HOME,$USER; pwd; id -u; id -g");
    let env = [("BOTH", "e"), ("OWN", "a=b c\n'\"")];
    request.env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let answer = guest.exec(&request).await.unwrap();
    let lines: Vec<&str> = answer.stdout.lines().collect();
    assert!(lines[0].starts_with("s,e,a=b c"), "{lines:?}");
    assert_eq!(lines[lines.len() - 2..], ["1000", "1000"]);
    let home = guest.sh("echo $HOME").await;
    assert_eq!(guest.sh("pwd").await, home);
    request = ExecRequest { cwd: Some("/usr/bin".to_owned()), ..root("pwd; id -u; echo $HOME") };
    assert_eq!(guest.exec(&request).await.unwrap().stdout, "/usr/bin\n0\n/root\n");
    request = ExecRequest { user: Some("4242".to_owned()), ..sh("id -u") };
    assert_eq!(guest.exec(&request).await.unwrap().stdout, "4242\n");
    // No shell is involved.
    request = ExecRequest { cmd: ["echo", "$HOME", "*"].map(str::to_owned).into(), ..sh("") };
    assert_eq!(guest.exec(&request).await.unwrap().stdout, "$HOME *\n");
}

#[tokio::test]
async fn a_command_that_cannot_run_is_refused_with_the_reason() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("printf '#!/no/such/interpreter\n' > /tmp/s; chmod +x /tmp/s").await;
    let command = |program: &str| ExecRequest { cmd: vec![program.to_owned()], ..sh("") };
    let cases = [
        (command("no-such-command"), ErrorCode::CommandNotFound, "no-such-command"),
        (command("/no/such/command"), ErrorCode::CommandNotFound, "/no/such/command"),
        (command("/tmp/s"), ErrorCode::CommandNotFound, "/tmp/s"),
        (command("/etc/passwd"), ErrorCode::CommandNotExecutable, "/etc/passwd"),
        (command("/etc"), ErrorCode::CommandNotExecutable, "/etc"),
        (
            ExecRequest { user: Some("ghost".to_owned()), ..sh("true") },
            ErrorCode::UnknownUserInGuest,
            "ghost",
        ),
        (
            ExecRequest { cwd: Some("/no/such/dir".to_owned()), ..sh("true") },
            ErrorCode::FileNotFound,
            "/no/such/dir",
        ),
        (
            ExecRequest { cwd: Some("/etc/passwd".to_owned()), ..sh("true") },
            ErrorCode::NotDirectory,
            "/etc/passwd",
        ),
    ];
    for (request, code, named) in cases {
        let body = refused(guest.exec(&request).await);
        assert_eq!(body.code, code, "{request:?}: {body:?}");
        assert!(body.error.contains(named), "{body:?}");
        let streamed = guest.client.exec_stream(&guest.id, &request).await.map(drop);
        assert_eq!(refused(streamed).code, code, "{request:?}");
    }
}

#[tokio::test]
async fn a_command_whose_time_is_up_is_killed_and_its_output_kept() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let script = "echo before; echo why >&2; echo $$ > /tmp/pid; sleep 1000 & wait; echo after";
    let request = ExecRequest { timeout_sec: Some(1), ..sh(script) };
    let answer = guest.exec(&request).await.unwrap();
    assert!(answer.timed_out);
    assert_eq!((answer.exit_code, answer.stdout.as_str()), (137, "before\n"));
    assert_eq!(answer.stderr, "why\n");
    guest.sh("! kill -0 $(cat /tmp/pid) 2>/dev/null && ! pidof sleep").await;
    let (stdout, _, last) = streamed(&mut guest, &request).await;
    assert_eq!(stdout, b"before\n");
    assert_eq!(last, StreamEvent::Exit { exit_code: 137, timed_out: true });
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_command_along() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut watcher = guest.by(node.admin());
    for script in
        ["echo $$; sleep 1000", "trap '' TERM HUP PIPE; echo $$; while :; do sleep 1; done"]
    {
        let mut events = guest.client.exec_stream(&guest.id, &sh(script)).await.unwrap();
        let Some(StreamEvent::Started { .. }) = events.next().await.unwrap() else { panic!() };
        let Some(StreamEvent::Stdout(pid)) = events.next().await.unwrap() else { panic!("a pid") };
        let pid = pid.data.unwrap().trim().to_owned();
        watcher.sh(&format!("kill -0 {pid}")).await;
        drop(events);
        // Waited for in the guest: nothing tells anybody outside. Its own time limit is a guard.
        let gone = format!("while kill -0 {pid} 2>/dev/null; do usleep 10000; done");
        let request = ExecRequest { timeout_sec: Some(60), ..sh(&gone) };
        let answer = watcher.exec(&request).await.unwrap();
        assert!(!answer.timed_out, "{script} is still there");
    }
}

#[tokio::test]
async fn a_child_in_the_background_does_not_hold_the_command() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let request =
        ExecRequest { timeout_sec: Some(60), ..sh("sleep 1000 & echo $! > /tmp/pid; echo hi") };
    let answer = guest.exec(&request).await.unwrap();
    assert_eq!((answer.stdout.as_str(), answer.timed_out, answer.exit_code), ("hi\n", false, 0));
    // It goes on, and may write without dying of it.
    guest.sh("kill -0 $(cat /tmp/pid)").await;
    let noisy = "(while :; do echo noise || exit; done) & echo $! > /tmp/noisy; echo hi";
    let answer = guest.exec(&ExecRequest { timeout_sec: Some(60), ..sh(noisy) }).await.unwrap();
    assert!(answer.stdout.contains("hi\n") && !answer.timed_out);
    guest.sh("kill -0 $(cat /tmp/noisy) && kill $(cat /tmp/noisy)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_commands_run_at_once() {
    let node = Node::start();
    let guest = Guest::create(&node, "dev").await;
    let commands: Vec<_> = (0..200)
        .map(|number| {
            let mut guest = guest.by(node.admin());
            tokio::spawn(async move {
                let script = format!("echo {number}; echo e{number} >&2; exit {}", number % 100);
                guest.exec(&sh(&script)).await
            })
        })
        .collect();
    for (number, command) in commands.into_iter().enumerate() {
        let answer = command.await.unwrap().unwrap();
        assert_eq!(answer.stdout, format!("{number}\n"));
        assert_eq!(answer.stderr, format!("e{number}\n"));
        assert_eq!(answer.exit_code, i32::try_from(number % 100).unwrap());
    }
    assert_eq!(node.monitors().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_passes_codes_bytes_and_input_on() {
    let node = Node::start();
    Guest::create(&node, "dev").await;
    for code in [0, 1, 42, 137] {
        let script = format!("exit {code}");
        let output = node.cli(&["exec", "dev", "--", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(code));
    }
    let file = node.data().join("input");
    std::fs::write(&file, all_bytes()).unwrap();
    let input = || std::fs::File::open(&file).unwrap();
    let script = "cat > /tmp/in; cat /tmp/in; cat /tmp/in >&2";
    let echoed = node.cli_with(&["exec", "-i", "dev", "--", "sh", "-c", script], input());
    assert_eq!((echoed.stdout, echoed.stderr), (all_bytes(), all_bytes()));
    let late = node.cli(&["exec", "--timeout", "1", "dev", "--", "sh", "-c", "echo a; sleep 99"]);
    assert_eq!((late.status.code(), late.stdout.as_slice()), (Some(124), &b"a\n"[..]));
    let missing = node.cli(&["exec", "dev", "--", "no-such-command"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-command"));
    let line = ["exec", "--env", "A=1,2", "-w", "/tmp", "-u", "root", "dev", "--", "sh", "-c"];
    let output = node.cli(&[&line[..], &["echo $A; pwd; id -u"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1,2\n/tmp\n0\n");
    let json = node.cli(&["--json", "exec", "dev", "--", "echo", "hi"]);
    let answer: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&answer["stdout"], &answer["exit_code"]), (&"hi\n".into(), &0.into()));
}

/// Reads bytes that are made up as they are read.
fn numbers(count: usize) -> Vec<u8> {
    (0..count as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]).collect()
}

#[tokio::test]
async fn input_of_fifty_megabytes_is_streamed_through() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let input = numbers(50 << 20);
    let sum = base::hash::bytes(&input);
    let mut request = sh("");
    request.cmd = vec!["cat".to_owned()];
    let reader = std::io::Cursor::new(input);
    let mut events = guest.client.exec_interactive(&guest.id, &request, reader).await.unwrap();
    let mut output = Vec::new();
    loop {
        match events.next().await.unwrap() {
            Some(StreamEvent::Stdout(payload)) => output.extend(payload.into_bytes().unwrap()),
            Some(StreamEvent::Started { .. }) => {}
            Some(StreamEvent::Exit { exit_code: 0, .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    drop(events);
    assert_eq!((output.len(), base::hash::bytes(&output)), (50 << 20, sum));
    // Input that nobody reads holds nothing up.
    let (mut ours, theirs) = tokio::io::duplex(4096);
    request.cmd = ["sh", "-c", "read x; echo $x; exit 3"].map(str::to_owned).into();
    let mut events = guest.client.exec_interactive(&guest.id, &request, theirs).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut ours, b"word\n").await.unwrap();
    let mut last = None;
    while let Some(event) = events.next().await.unwrap() {
        last = Some(event);
    }
    assert_eq!(last, Some(StreamEvent::Exit { exit_code: 3, timed_out: false }));
    drop((events, ours));
    assert_eq!(guest.sh("echo here").await, "here");
}

/// A client may go at any point: nothing of its command may stay, and nobody else may notice.
#[tokio::test]
async fn clients_that_vanish_at_each_point_leave_nothing_running() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let path = format!("/sandboxes/{}/exec", guest.id);
    let line = "{\"cmd\":[\"sh\",\"-c\",\"echo up; cat; exec sleep 1003\"]}\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = raw::head(
        "POST",
        &path,
        &[
            "content-type: application/x-ndjson",
            "accept: application/x-ndjson",
            "transfer-encoding: chunked",
        ],
    );
    let whole = format!("{head}{}{}0\r\n\r\n", chunk(line), chunk("input"));
    // Every so many bytes of the request, and then some of the answer.
    let points: Vec<usize> = (10..whole.len()).step_by(29).chain([whole.len()]).collect();
    for point in points {
        let mut stream = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
        stream.write_all(&whole.as_bytes()[..point]).await.unwrap();
        if point == whole.len() {
            let mut seen = Vec::new();
            while !seen.windows(5).any(|part| part == b"input") {
                assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
            }
        }
        drop(stream);
        let gone = "while pidof sleep cat > /dev/null; do usleep 2000; done";
        let request = ExecRequest { timeout_sec: Some(60), ..sh(gone) };
        let answer = guest.exec(&request).await.unwrap();
        assert!(!answer.timed_out, "what was sent {point} bytes of goes on");
    }
    e2e::until("nothing goes on", async || {
        let activity = guest.view().await.activity.unwrap();
        (activity.running == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_streams_input_and_ends_with_the_command() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let file = node.data().join("input");
    let input = numbers(20 << 20);
    std::fs::write(&file, &input).unwrap();
    let echoed =
        node.cli_with(&["exec", "-i", "dev", "--", "cat"], std::fs::File::open(&file).unwrap());
    assert_eq!((echoed.status.code(), echoed.stdout.len()), (Some(0), 20 << 20));
    assert!(echoed.stdout == input);
    // The command does not wait for input that never ends.
    let (reader, _writer) = std::io::pipe().unwrap();
    let ended = node.cli_with(&["exec", "-i", "dev", "--", "sh", "-c", "exit 5"], reader);
    assert_eq!(ended.status.code(), Some(5));
    let env = node.cli(&["exec", "-e", "A=b c", "dev", "--", "sh", "-c", "echo $A"]);
    assert_eq!(env.stdout, b"b c\n");
    guest.sh("true").await;
}
