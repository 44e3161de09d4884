//! The program itself against a server that gives one canned answer a connection: what a script
//! sees of it is its exit code, its stdout and its stderr.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod served;

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::{Output, Stdio},
    thread,
};

use self::served::{STREAM, program, read_request, read_to, served};

fn bhatti(directory: &Path, args: &[&str]) -> Output {
    program(directory, args).as_std_mut().output().unwrap()
}

/// Runs the program with a daemon that answers with these lines.
fn answered(status: &str, media: &str, body: &str, args: &[&str]) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("admin.key"), "bht_admin\n").unwrap();
    let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        stream.write_all(answer.as_bytes()).unwrap();
        request
    });
    let output = bhatti(directory.path(), args);
    (output, server.join().unwrap())
}

#[test]
fn a_command_that_ends_before_its_input_ends_the_program() {
    let args = ["exec", "-i", "dev", "--", "true"];
    // The test keeps its end of stdin open, as a terminal would.
    let (mut child, _directory, server) = served(&args, Stdio::piped(), |mut stream| {
        read_to(&mut stream, b"\"cmd\":[\"true\"]}\n");
        stream.write_all(STREAM.as_bytes()).unwrap();
        stream.write_all(b"{\"type\":\"exit\",\"exit_code\":7}\n").unwrap();
        // Only the program's own end closes the connection.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let _stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    server.join().unwrap();
}

#[test]
fn input_of_a_command_is_closed_with_stdin() {
    let args = ["exec", "-i", "dev", "--", "cat"];
    let (mut child, _directory, server) = served(&args, Stdio::piped(), |mut stream| {
        read_to(&mut stream, b"hello");
        read_to(&mut stream, b"0\r\n\r\n");
        stream.write_all(STREAM.as_bytes()).unwrap();
        stream.write_all(b"{\"type\":\"exit\",\"exit_code\":0}\n").unwrap();
    });
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    server.join().unwrap();
}

#[test]
fn ctrl_c_hangs_up_and_exits_as_shells_count() {
    let args = ["exec", "dev", "--", "sleep", "9"];
    let (mut child, _directory, server) = served(&args, Stdio::null(), |mut stream| {
        read_request(&mut stream);
        stream.write_all(STREAM.as_bytes()).unwrap();
        stream.write_all(b"{\"type\":\"stdout\",\"data\":\"x\"}\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    // The output says that the program waits for more.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    server.join().unwrap();
}

#[test]
fn a_job_leaves_its_id_and_nothing_else_on_stdout() {
    let body = r#"{"job_id":"j3","pid":9,"detached":true}"#;
    let args = ["exec", "--detach", "dev", "--", "make"];
    let (output, request) = answered("200 OK", "application/json", body, &args);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"j3\n"[..]));
    assert!(request.ends_with(r#"{"cmd":["make"],"detach":true}"#), "{request}");
}

#[test]
fn logs_are_exact_and_their_cursor_comes_last() {
    let lines = concat!(
        "{\"type\":\"missed\",\"offset\":4}\n",
        "{\"type\":\"stdout\",\"offset\":4,\"data_b64\":\"/wo=\"}\n",
        "{\"type\":\"stderr\",\"offset\":6,\"data\":\"oops\\n\"}\n",
        "{\"type\":\"end\",\"offset\":11,\"status\":\"exited\",\"exit_code\":3}\n",
    );
    let args = ["logs", "--cursor", "--since", "2", "dev", "j1"];
    let (output, request) = answered("200 OK", "application/x-ndjson", lines, &args);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"\xff\n"[..]));
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(words, "output before cursor 4 is not kept any more\noops\ncursor: 11\n");
    let line = "GET /sandboxes/dev/jobs/j1/output?offset=2&follow=false ";
    assert!(request.starts_with(line), "{request}");
    let cut = "{\"type\":\"stdout\",\"offset\":0,\"data\":\"x\"}\n";
    let (output, _) = answered("200 OK", "application/x-ndjson", cut, &["logs", "dev", "j1"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_create_whose_file_is_missing_asks_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = bhatti(directory.path(), &["create", "--file", "/does/not/exist:/x"]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("/does/not/exist") && !words.contains("not running"), "{words}");
}

fn exec(lines: &str) -> (Output, String) {
    answered("200 OK", "application/x-ndjson", lines, &["exec", "dev", "--", "sh"])
}

#[test]
fn the_exit_code_of_a_command_is_the_programs_own() {
    let (output, request) = exec(concat!(
        "{\"type\":\"stdout\",\"data_b64\":\"/wo=\"}\n",
        "{\"type\":\"stderr\",\"data\":\"oops\"}\n",
        "{\"type\":\"exit\",\"exit_code\":42}\n",
    ));
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(output.stdout, [0xff, b'\n']);
    assert_eq!(output.stderr, b"oops");
    assert!(request.starts_with("POST /sandboxes/dev/exec HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer bht_admin\r\n"), "{request}");
}

#[test]
fn a_stream_without_an_exit_is_a_failure() {
    let (output, _) = exec("{\"type\":\"stdout\",\"data\":\"half\"}\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"half");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: the stream ended"));
}

#[test]
fn a_command_whose_time_was_up_exits_as_with_timeout() {
    let (output, _) = exec("{\"type\":\"exit\",\"exit_code\":137,\"timed_out\":true}\n");
    assert_eq!(output.status.code(), Some(124));
    assert!(String::from_utf8_lossy(&output.stderr).contains("time was up"));
}

#[test]
fn errors_are_two_lines_for_people_and_one_object_for_programs() {
    let body = r#"{"error":"sandbox dev not found","code":"sandbox_not_found","hint":"bhatti ls"}"#;
    let args = ["inspect", "dev"];
    let (output, _) = answered("404 Not Found", "application/json", body, &args);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: sandbox dev not found\nhint: bhatti ls\n"
    );
    let args = ["--json", "inspect", "dev"];
    let (output, _) = answered("404 Not Found", "application/json", body, &args);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{body}\n"));
}

#[test]
fn nothing_is_destroyed_when_nobody_can_be_asked() {
    let directory = tempfile::tempdir().unwrap();
    for args in [&["destroy", "dev"][..], &["snapshot", "delete", "base"]] {
        let output = bhatti(directory.path(), args);
        assert_eq!(output.status.code(), Some(1));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("stdin is not a terminal") && words.contains("-y"), "{words}");
    }
}

#[test]
fn an_edit_of_nothing_asks_for_nothing_and_says_what_can_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    for (args, flag) in
        [(&["edit", "dev"][..], "--keep-hot"), (&["user", "edit", "b"], "--max-cpus")]
    {
        let output = bhatti(directory.path(), args);
        assert_eq!(output.status.code(), Some(1));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.starts_with("error: there is nothing to change\nhint: "), "{words}");
        assert!(words.contains(flag), "{words}");
    }
}

const SANDBOX: &str = concat!(
    r#"{"id":"1","name":"web","status":"running","thermal":"hot","image":"m","cpus":1,"#,
    r#""memory_mb":256,"disk_size_mb":1024,"labels":{},"created_by":"usr_1","created_at":"t","#,
    r#""engine":"qemu/tcg","generation":1,"keep_hot":false,"idle_warm_sec":30,"#,
    r#""idle_cold_sec":"never"}"#
);

#[test]
fn a_rename_says_what_stays() {
    let args = ["edit", "dev", "--name", "web", "--idle-cold", "never"];
    let (output, request) = answered("200 OK", "application/json", SANDBOX, &args);
    assert_eq!(output.status.code(), Some(0));
    assert!(request.starts_with("PATCH /sandboxes/dev HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"name":"web","idle_cold_sec":"never"}"#), "{request}");
    let words = String::from_utf8(output.stdout).unwrap();
    assert_eq!(words, "Updated web\nName:     web\nSleeps:   warm after 30 s, cold never\n");
    let note = String::from_utf8(output.stderr).unwrap();
    assert_eq!(note, "the host name in the sandbox stays as it is\n");
}

#[test]
fn a_fork_has_a_line_a_copy_or_one_array() {
    let body = format!("[{SANDBOX},{SANDBOX}]");
    let args = ["fork", "dev", "--name", "web", "--count", "2"];
    let (output, request) = answered("201 Created", "application/json", &body, &args);
    assert!(request.starts_with("POST /sandboxes/dev/fork HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"name":"web","count":2}"#), "{request}");
    let words = String::from_utf8(output.stdout).unwrap();
    assert_eq!(words.matches("sandbox/web forked from dev in ").count(), 2, "{words}");
    let args = ["--json", "fork", "dev"];
    let (output, _) = answered("201 Created", "application/json", &body, &args);
    let copies: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(copies.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_snapshot_is_taken_resumed_and_deleted() {
    let taken = concat!(
        r#"{"id":"snap_001122334455","name":"base","type":"disk","source_sandbox":"dev","#,
        r#""created_by":"usr_1","image":"m","cpus":1,"memory_mb":256,"disk_size_mb":1024,"#,
        r#""size_bytes":1536,"own_bytes":10,"size_mb":1,"created_at":"t","paused_ms":9.25}"#
    );
    let args = ["snapshot", "create", "dev", "--name", "base", "--type", "disk"];
    let (output, request) = answered("201 Created", "application/json", taken, &args);
    let line = "snapshot/base created (1.5 KB, dev stood still for 9 ms)\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), line);
    assert!(request.starts_with("POST /sandboxes/dev/checkpoint HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"name":"base","type":"disk"}"#), "{request}");

    let (output, _) = answered("200 OK", "application/json", "[]", &["snapshot", "list"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bhatti snapshot create"));

    let lines = format!(
        "{{\"type\":\"progress\",\"message\":\"x\"}}\n{{\"type\":\"result\",\"sandbox\":{SANDBOX}}}\n"
    );
    let args = ["snapshot", "resume", "base", "--name", "web"];
    let (output, request) = answered("200 OK", "application/x-ndjson", &lines, &args);
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.starts_with("sandbox/web resumed from snapshot/base in "), "{words}");
    assert!(request.starts_with("POST /snapshots/base/resume HTTP/1.1\r\n"), "{request}");

    let gone = r#"{"status":"deleted","id":"snap_001122334455","name":"base"}"#;
    let args = ["snapshot", "delete", "-y", "base"];
    let (output, request) = answered("200 OK", "application/json", gone, &args);
    assert_eq!(output.stdout, b"snapshot/base deleted\n");
    assert!(request.starts_with("DELETE /snapshots/base HTTP/1.1\r\n"), "{request}");
}

#[test]
fn a_daemon_that_does_not_run_is_said_to() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("unix://{}/api.sock", directory.path().display());
    let output = bhatti(directory.path(), &["--url", &url, "list"]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("not running") && words.contains("bhatti serve"), "{words}");
}

#[test]
fn setup_stores_nothing_that_does_not_work() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("unix://{}/api.sock", directory.path().display());
    let output = bhatti(directory.path(), &["setup", "--url", &url, "--token", "bht_x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!directory.path().join(".bhatti").exists());
}
