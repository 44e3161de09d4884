//! Ctrl-C and a polite kill while the program waits for something, seen from a terminal.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod served;

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixListener, unix::net::UnixStream},
    path::Path,
    process::Stdio,
    thread,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::tcgetattr,
};
use tempfile::TempDir;

use self::served::{STREAM, program, read_to};

const TASK: &str = "{\"type\":\"task\",\"task_id\":\"tsk_1\"}\n\
    {\"type\":\"progress\",\"message\":\"asking somebody\",\"done_bytes\":0}\n";
const STEP: &str = "{\"type\":\"progress\",\"message\":\"asking somebody\"}\n";
const BUILDING: &str =
    "{\"type\":\"step\",\"number\":1,\"total\":2,\"text\":\"asking somebody\",\"cached\":false}\n";

/// A terminal: the user's end, and the program's.
fn terminal() -> (File, File) {
    let controller: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let program = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (controller.into(), program)
}

/// What a program that was interrupted leaves: its exit code, what it wrote on its terminal, and what
/// of the terminal is another than before.
struct Left {
    code: Option<i32>,
    shown: String,
    terminal_is_the_same: bool,
}

/// Runs the program on a terminal with a daemon that answers with `answer` and no more, and sends the
/// signal once it shows `sign`.
fn interrupted(args: &[&str], answer: &'static str, sign: &str, signal: Signal) -> Left {
    let directory = tempfile::tempdir().unwrap();
    let server = daemon(directory.path(), answer);
    let (mut user, end) = terminal();
    let before = tcgetattr(&end).unwrap();
    let child = program(directory.path(), args)
        .env("TERM", "xterm")
        .as_std_mut()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(end.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&shown).contains(sign) {
        user.read_exact(&mut byte).unwrap();
        shown.push(byte[0]);
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"", "nothing came of it");
    // The daemon is told by the end of the connection, and by nothing else.
    server.join().unwrap();
    let after = tcgetattr(&end).unwrap();
    (&end).write_all(b"\x04").unwrap();
    while byte != *b"\x04" {
        user.read_exact(&mut byte).unwrap();
        shown.push(byte[0]);
    }
    Left {
        code: output.status.code(),
        shown: String::from_utf8(shown).unwrap(),
        terminal_is_the_same: before.local_modes == after.local_modes
            && before.input_modes == after.input_modes
            && before.output_modes == after.output_modes,
    }
}

/// A daemon that answers a request whose body ends, says no more, and waits for the client to leave.
fn daemon(directory: &Path, answer: &'static str) -> thread::JoinHandle<()> {
    std::fs::write(directory.join("admin.key"), "bht_admin\n").unwrap();
    let listener = UnixListener::bind(directory.join("api.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_to(&mut stream, b"\r\n\r\n");
        stream.write_all(STREAM.as_bytes()).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// A directory with a Dockerfile.
fn context() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM busybox\n").unwrap();
    directory
}

#[test]
fn whoever_does_not_wait_is_told_what_becomes_of_it_and_has_his_terminal_back() {
    let context = context();
    let context = context.path().to_str().unwrap();
    for (args, answer, told) in [
        (&["image", "pull", "x"][..], TASK, "the daemon goes on with it (tsk_1)"),
        (&["create", "--image", "x:1"], STEP, "what the daemon has begun it ends"),
        (&["image", "build", "-t", "a", context], BUILDING, "the build was cancelled"),
    ] {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let left = interrupted(args, answer, "asking somebody", signal);
            assert_eq!(left.code, Some(code), "{args:?}");
            assert!(left.shown.contains(told), "{args:?}: {:?}", left.shown);
            assert!(left.terminal_is_the_same, "{args:?}");
            assert_is_tidy(&left.shown, told);
        }
    }
}

/// What moved is gone from the screen before the last words, and the cursor is there.
fn assert_is_tidy(shown: &str, told: &str) {
    let (before, _) = shown.split_once(told).unwrap();
    let line = before.rsplit('\n').next().unwrap();
    let visible = line.rsplit("\x1b[2K").next().unwrap();
    assert_eq!(visible, "", "{shown:?}");
    let hidden = shown.matches("\x1b[?25l").count();
    assert_eq!(hidden, shown.matches("\x1b[?25h").count(), "{shown:?}");
}

#[test]
fn an_import_of_which_only_a_part_was_sent_is_cut_off() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("admin.key"), "bht_admin\n").unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let mut child =
            program(directory.path(), &["image", "import", "--tar", "-", "--name", "a"])
                .as_std_mut()
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&[7; 300 << 10]).unwrap();
        let mut stream: UnixStream = listener.accept().unwrap().0;
        read_to(&mut stream, &[7; 1000]);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the body looks whole");
        drop(stdin);
    }
}
