//! `bhatti shell` against a server that speaks the session protocol, with and without a terminal.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::result_large_err, reason = "the type of an error is the library's")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Stdio},
    thread,
};

use base::process::Command;
use futures_util::{SinkExt as _, StreamExt as _};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tokio::net::{UnixListener, UnixStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

type Socket = WebSocketStream<UnixStream>;

const SESSION: &str = r#"{"type":"session","session_id":"s1","created":true,"replay_bytes":0}"#;

/// A daemon that answers one WebSocket, and what its URL was.
fn daemon<F>(
    directory: &Path,
    handle: impl FnOnce(Socket) -> F + Send + 'static,
) -> thread::JoinHandle<String>
where
    F: Future<Output = ()>,
{
    std::fs::write(directory.join("admin.key"), "bht_admin\n").unwrap();
    let path = directory.join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = UnixListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut url = String::new();
            let note = |request: &Request, response: Response| -> Result<_, ErrorResponse> {
                assert_eq!(request.headers()["authorization"], "Bearer bht_admin");
                url = request.uri().to_string();
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, note).await.unwrap();
            socket.send(Message::text(SESSION)).await.unwrap();
            handle(socket).await;
            url
        })
    })
}

/// Input until it ends with this.
async fn expect(socket: &mut Socket, end: &[u8]) {
    let mut typed = Vec::new();
    while !typed.ends_with(end) {
        if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
            typed.extend_from_slice(&bytes);
        }
    }
}

fn shell(directory: &Path, args: &[&str], stdin: Stdio, stdout: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bhatti"))
        .env("HOME", directory)
        .arg("--data-dir")
        .arg(directory)
        .args(["shell", "dev"])
        .args(args)
        .as_std_mut()
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A terminal: the user's end, and the program's.
fn terminal() -> (File, File) {
    let controller: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let program = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&program, size).unwrap();
    (controller.into(), program)
}

fn is_raw(terminal: &File) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
}

#[test]
fn without_a_terminal_stdin_is_typed_and_the_exit_code_is_the_shells() {
    let directory = tempfile::tempdir().unwrap();
    let server = daemon(directory.path(), |mut socket| async move {
        expect(&mut socket, b"exit 5\n\x04").await;
        socket.send(Message::binary(&b"\xffbye\r\n"[..])).await.unwrap();
        socket.send(Message::text(r#"{"type":"exit","exit_code":5}"#)).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    let mut child = shell(directory.path(), &["--new"], Stdio::piped(), Stdio::piped());
    child.stdin.take().unwrap().write_all(b"exit 5\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(output.stdout, b"\xffbye\r\n");
    assert_eq!(server.join().unwrap(), "/sandboxes/dev/ws?new=true");
}

#[test]
fn ctrl_backslash_leaves_and_gives_the_terminal_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = daemon(directory.path(), |mut socket| async move {
        socket.send(Message::binary(&b"$ "[..])).await.unwrap();
        expect(&mut socket, b"ls\x1c\x03\r").await;
        socket.send(Message::binary(&b"# "[..])).await.unwrap();
        // The client leaves without a word of ours.
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    let (mut user, program) = terminal();
    assert!(!is_raw(&program));
    let end = || Stdio::from(program.try_clone().unwrap());
    let child = shell(directory.path(), &[], end(), end());
    let mut prompt = [0; 2];
    user.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"$ ");
    // Output is written once the terminal is raw: keys come as they are, none is a signal.
    assert!(is_raw(&program));
    user.write_all(b"ls\x1c\x03\r").unwrap();
    user.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"# ");
    user.write_all(b"\x1c").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!is_raw(&program));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("detached from s1; come back: bhatti shell dev --session s1"),
        "{words}"
    );
    assert_eq!(server.join().unwrap(), "/sandboxes/dev/ws?rows=33&cols=101");
}

#[test]
fn a_terminal_is_given_back_when_the_program_is_told_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let server = daemon(directory.path(), |mut socket| async move {
        socket.send(Message::binary(&b"$ "[..])).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    let (mut user, program) = terminal();
    let end = || Stdio::from(program.try_clone().unwrap());
    let child = shell(directory.path(), &[], end(), end());
    user.read_exact(&mut [0; 2]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(!is_raw(&program));
    server.join().unwrap();
}

#[test]
fn a_session_that_goes_on_without_us_is_a_failure_that_says_so() {
    let ends = [
        (Some(r#"{"type":"detached","reason":"taken_over"}"#), "s1 was taken over"),
        (Some(r#"{"type":"error","error":"it broke","code":"internal"}"#), "error: it broke"),
        (None, "connection lost (the session goes on)"),
    ];
    for (last, words) in ends {
        let directory = tempfile::tempdir().unwrap();
        let server = daemon(directory.path(), move |mut socket| async move {
            if let Some(last) = last {
                socket.send(Message::text(last)).await.unwrap();
            }
        });
        let args = ["--session", "s1"];
        let mut child = shell(directory.path(), &args, Stdio::piped(), Stdio::piped());
        let _stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(words), "{said}");
        assert_eq!(server.join().unwrap(), "/sandboxes/dev/ws?session=s1");
    }
}
