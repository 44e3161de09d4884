//! The program, and a daemon that handles one connection as a test wants.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    io::Read as _,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Stdio},
    thread,
};

use base::process::Command;

/// The program, with the daemon of this data directory.
pub(crate) fn program(directory: &Path, args: &[&str]) -> Command {
    Command::new(env!("CARGO_BIN_EXE_bhatti"))
        .env("HOME", directory)
        .arg("--data-dir")
        .arg(directory)
        .args(args)
}

/// Reads a head and the body that its content-length announces.
pub(crate) fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

/// Runs the program with a daemon that handles its one connection like this, and stdin as given.
pub(crate) fn served<T: Send + 'static>(
    args: &[&str],
    stdin: Stdio,
    handle: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> (Child, tempfile::TempDir, thread::JoinHandle<T>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("admin.key"), "bht_admin\n").unwrap();
    let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
    let server = thread::spawn(move || handle(listener.accept().unwrap().0));
    let child = program(directory.path(), args)
        .as_std_mut()
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, directory, server)
}

/// Reads until what was read ends with these bytes.
pub(crate) fn read_to(stream: &mut UnixStream, end: &[u8]) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end) {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
}

/// How a stream of lines begins.
pub(crate) const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
    connection: close\r\n\r\n";
