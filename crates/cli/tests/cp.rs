//! `bhatti cp` and `bhatti forward` against a small daemon that keeps its files in a directory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Output, Stdio},
    thread,
};

use base::process::Command;

/// A daemon with one sandbox, `dev`, whose root is `root` below a directory.
struct Daemon(tempfile::TempDir);

impl Daemon {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("admin.key"), "bht_admin\n").unwrap();
        fs::create_dir_all(directory.path().join("root/tmp")).unwrap();
        fs::create_dir_all(directory.path().join("here")).unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let root = directory.path().join("root");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let root = root.clone();
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    while serve(&mut stream, &root).is_some() {}
                });
            }
        });
        Self(directory)
    }

    fn command(&self, args: &[&str]) -> Command {
        Command::new(env!("CARGO_BIN_EXE_bhatti"))
            .env("HOME", self.0.path())
            .current_dir(&self.here(""))
            .arg("--data-dir")
            .arg(self.0.path())
            .args(args)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).as_std_mut().output().unwrap()
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), String> {
        let output = self.run(&["cp", from, to]);
        assert_eq!(output.stdout, b"");
        let words = String::from_utf8(output.stderr).unwrap();
        if output.status.success() { Ok(()) } else { Err(words) }
    }

    fn here(&self, path: &str) -> PathBuf {
        self.0.path().join("here").join(path)
    }

    fn there(&self, path: &str) -> PathBuf {
        self.0.path().join("root").join(path)
    }
}

/// What a client asked for.
struct Asked {
    method: String,
    route: String,
    query: String,
    /// What is meant below the root.
    path: PathBuf,
    body: Vec<u8>,
}

impl Asked {
    /// Reads a request; `None` at the end of the connection.
    fn read(stream: &mut BufReader<UnixStream>, root: &Path) -> Option<Self> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let chunked = head.iter().any(|line| line == "transfer-encoding: chunked");
        let body = if chunked { chunks(stream)? } else { Vec::new() };
        let mut words = head[0].split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (route, query) = target.split_once('?').unwrap_or((target, ""));
        let path = query.split('&').find_map(|pair| pair.strip_prefix("path=")).unwrap_or("");
        let path = root.join(path.replace("%2F", "/").trim_start_matches('/'));
        Some(Self { method, route: route.to_owned(), query: query.to_owned(), path, body })
    }
}

const JSON: &str = "content-type: application/json\r\n";

/// Status, headers and body.
type Answer = (&'static str, String, Vec<u8>);

fn json(status: &'static str, body: &str) -> Answer {
    (status, JSON.to_owned(), body.as_bytes().to_vec())
}

/// Answers one request; `None` at the end of the connection.
fn serve(stream: &mut BufReader<UnixStream>, root: &Path) -> Option<()> {
    let asked = Asked::read(stream, root)?;
    let (status, headers, body) = match (asked.method.as_str(), asked.route.as_str()) {
        ("HEAD" | "GET", "/sandboxes/dev/files") => read_file(&asked),
        ("PUT", "/sandboxes/dev/files") => write_file(&asked)?,
        ("GET", "/sandboxes/dev/archive") => {
            let mut archive = tar::Builder::new(Vec::new());
            archive.follow_symlinks(false);
            archive.append_dir_all(".", &asked.path).ok()?;
            ("200 OK", String::new(), archive.into_inner().ok()?)
        }
        ("PUT", "/sandboxes/dev/archive") => unpack(&asked)?,
        ("GET", "/sandboxes/dev") => json(
            "200 OK",
            r#"{"id":"1","name":"dev","status":"running","thermal":"hot","image":"m","cpus":1,
                "memory_mb":256,"disk_size_mb":1024,"created_by":"usr_1","created_at":"t",
                "engine":"qemu/tcg","generation":1}"#,
        ),
        ("GET", "/sandboxes/dev/ports/81/tunnel") => json(
            "502 Bad Gateway",
            r#"{"error":"nothing listens on port 81","code":"port_closed"}"#,
        ),
        ("GET", "/sandboxes/dev/ports/80/tunnel") => return tunnel(stream),
        _ => json("404 Not Found", r#"{"error":"no such route","code":"not_found"}"#),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).ok()?;
    if asked.method != "HEAD" {
        stream.get_mut().write_all(&body).ok()?;
    }
    Some(())
}

fn read_file(asked: &Asked) -> Answer {
    let Ok(found) = fs::metadata(&asked.path) else {
        return json("404 Not Found", r#"{"error":"no such file","code":"file_not_found"}"#);
    };
    let headers = format!(
        "x-file-size: {}\r\nx-file-mode: {:04o}\r\nx-file-isdir: {}\r\n",
        found.len(),
        found.permissions().mode() & 0o7777,
        found.is_dir()
    );
    ("200 OK", headers, fs::read(&asked.path).unwrap_or_default())
}

fn write_file(asked: &Asked) -> Option<Answer> {
    fs::create_dir_all(asked.path.parent()?).ok()?;
    fs::write(&asked.path, &asked.body).ok()?;
    if let Some(mode) = asked.query.split('&').find_map(|pair| pair.strip_prefix("mode=")) {
        let mode = u32::from_str_radix(mode, 8).ok()?;
        fs::set_permissions(&asked.path, fs::Permissions::from_mode(mode)).ok()?;
    }
    Some(json("200 OK", r#"{"status":"ok","size":0}"#))
}

fn unpack(asked: &Asked) -> Option<Answer> {
    fs::create_dir_all(&asked.path).ok()?;
    let mut archive = tar::Archive::new(&asked.body[..]);
    archive.set_preserve_permissions(true);
    archive.unpack(&asked.path).ok()?;
    // The library leaves the directory itself as it is, and lohar does not.
    for entry in tar::Archive::new(&asked.body[..]).entries().ok()? {
        let entry = entry.ok()?;
        if &*entry.path_bytes() == b"./" {
            let mode = entry.header().mode().ok()?;
            fs::set_permissions(&asked.path, fs::Permissions::from_mode(mode)).ok()?;
        }
    }
    Some(json("200 OK", r#"{"status":"unpacked"}"#))
}

/// Says hello at once, and what it hears in capitals once it has heard all.
fn tunnel(stream: &mut BufReader<UnixStream>) -> Option<()> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
        upgrade: bhatti-tunnel\r\n\r\nhello ";
    stream.get_mut().write_all(head.as_bytes()).ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    stream.get_mut().write_all(said.to_uppercase().as_bytes()).ok()?;
    None
}

fn chunks(stream: &mut BufReader<UnixStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..]).ok()?;
        stream.read_line(&mut line).ok()?;
        if length == 0 {
            return Some(body);
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_keep_content_and_mode_both_ways() {
    let daemon = Daemon::new();
    let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    fs::write(daemon.here("f"), &content).unwrap();
    fs::set_permissions(daemon.here("f"), fs::Permissions::from_mode(0o750)).unwrap();
    daemon.copy("f", "dev:/new/deep/g").unwrap();
    daemon.copy("f", "dev:/tmp").unwrap();
    assert_eq!(fs::read(daemon.there("new/deep/g")).unwrap(), content);
    assert_eq!(mode(&daemon.there("tmp/f")), 0o750);
    daemon.copy("dev:/tmp/f", "back").unwrap();
    assert_eq!(
        (fs::read(daemon.here("back")).unwrap(), mode(&daemon.here("back"))),
        (content, 0o750)
    );
    fs::create_dir(daemon.here("d")).unwrap();
    daemon.copy("dev:/tmp/f", "d").unwrap();
    assert!(daemon.here("d/f").is_file());
    let names = fs::read_dir(daemon.here("")).unwrap().count();
    assert_eq!(names, 3, "something unfinished was left");
}

#[test]
fn trees_end_up_where_cp_puts_them() {
    let daemon = Daemon::new();
    fs::create_dir_all(daemon.here("src/sub")).unwrap();
    fs::write(daemon.here("src/sub/a"), "a").unwrap();
    fs::set_permissions(daemon.here("src"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(daemon.there("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    daemon.copy("src", "dev:/new").unwrap();
    assert_eq!((mode(&daemon.there("new")), daemon.there("new/sub/a").is_file()), (0o700, true));
    daemon.copy("src", "dev:/tmp").unwrap();
    assert!(daemon.there("tmp/src/sub/a").is_file());
    daemon.copy("src/.", "dev:/tmp").unwrap();
    assert!(daemon.there("tmp/sub/a").is_file());
    assert_eq!(mode(&daemon.there("tmp")), 0o1777, "a directory that was there was changed");

    daemon.copy("dev:/new", "copy").unwrap();
    assert_eq!((mode(&daemon.here("copy")), daemon.here("copy/sub/a").is_file()), (0o700, true));
    fs::create_dir(daemon.here("d")).unwrap();
    daemon.copy("dev:/new/", "d").unwrap();
    daemon.copy("dev:/new/.", "d").unwrap();
    assert!(daemon.here("d/new/sub/a").is_file() && daemon.here("d/sub/a").is_file());
}

#[test]
fn what_cannot_be_copied_is_said_and_changes_nothing() {
    let daemon = Daemon::new();
    fs::create_dir(daemon.here("dir")).unwrap();
    fs::write(daemon.here("file"), "old").unwrap();
    fs::write(daemon.there("tmp/f"), "new").unwrap();
    let refused = [
        ("file", "copy", "SANDBOX:/PATH"),
        ("dev:/tmp/f", "dev:/tmp/g", "SANDBOX:/PATH"),
        ("file", "dev:tmp", "has to be absolute"),
        ("missing", "dev:/tmp", "missing"),
        ("dev:/missing", "x", "does not exist"),
        ("dev:/tmp/f", "no/where", "is missing"),
        ("dev:/tmp/f", "file/", "ot a directory"),
        ("dev:/tmp", "file", "a directory is copied"),
        ("dir", "dev:/tmp/f", "a directory is copied"),
        ("file/.", "dev:/tmp", "ot a directory"),
    ];
    for (from, to, why) in refused {
        let words = daemon.copy(from, to).unwrap_err();
        assert!(words.contains(why), "{from} {to}: {words}");
    }
    assert_eq!(fs::read(daemon.here("file")).unwrap(), b"old");
    assert_eq!(fs::read(daemon.there("tmp/f")).unwrap(), b"new");
    assert_eq!(fs::read_dir(daemon.here("")).unwrap().count(), 2);
}

#[test]
fn a_dash_is_a_tar_archive() {
    let daemon = Daemon::new();
    fs::write(daemon.there("tmp/f"), "x").unwrap();
    let output = daemon.run(&["cp", "dev:/tmp", "-"]);
    assert!(output.status.success(), "{output:?}");
    fs::write(daemon.here("a.tar"), &output.stdout).unwrap();
    let archive = fs::File::open(daemon.here("a.tar")).unwrap();
    let sent = daemon.command(&["cp", "-", "dev:/there"]).stdin(archive).as_std_mut().output();
    assert!(sent.unwrap().status.success());
    assert_eq!(fs::read(daemon.there("there/f")).unwrap(), b"x");
}

#[test]
fn a_forwarded_port_keeps_half_closed_streams_and_outlives_failures() {
    let daemon = Daemon::new();
    let mut child = daemon
        .command(&["forward", "dev", "80:0", "81:0"])
        .as_std_mut()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut address = |port: &str| {
        let line = lines.next().unwrap().unwrap();
        let (address, target) = line.split_once(" -> ").unwrap();
        assert_eq!(target, port);
        address.to_owned()
    };
    let (open, closed) = (address("dev:80"), address("dev:81"));
    for _ in 0..3 {
        let mut failing = TcpStream::connect(&closed).unwrap();
        assert_eq!(failing.read(&mut [0]).unwrap_or(0), 0);
        let mut stream = TcpStream::connect(&open).unwrap();
        stream.write_all(b"world").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(io::read_to_string(&mut stream).unwrap(), "hello WORLD");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(words.matches("dev:81 failed: nothing listens on port 81").count(), 3, "{words}");
}
