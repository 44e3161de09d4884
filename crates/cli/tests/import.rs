//! `bhatti image import REF` with programs in the place of Docker and Podman that do what those do on
//! bad days.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod served;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use self::served::{program, read_to};

const IMAGE: &str = "{\"name\":\"web-1\",\"digest\":\"d\",\"size_mb\":1,\"source\":\"s\",\
    \"created_at\":\"t\",\"scope\":\"own\"}";

/// A machine with these programs and a daemon.
struct Machine {
    directory: TempDir,
    daemon: UnixListener,
}

impl Machine {
    fn new(programs: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("admin.key"), "bht_admin\n").unwrap();
        let daemon = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        let machine = Self { directory, daemon };
        for (name, script) in programs {
            let path = machine.path("bin").join(name);
            let id = "0123456789abcdef".repeat(4);
            let head = format!("#!/bin/sh\nid=sha256:{id}\ncd {}\n", machine.path("").display());
            fs::write(&path, head + script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn import(&self, reference: &str) -> Child {
        program(self.directory.path(), &["image", "import", reference])
            // Whatever this machine has of them is not there.
            .env("PATH", self.path("bin"))
            .as_std_mut()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The daemon's end of the one connection, once the head of the request has come.
    fn accept(&self) -> UnixStream {
        let mut stream = self.daemon.accept().unwrap().0;
        read_to(&mut stream, b"\r\n\r\n");
        stream
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

const NOT_RUNNING: &str = "echo 'Cannot connect to the Docker daemon. Is it running?' >&2; exit 1";

/// Has the image, and notes what it is asked for.
fn has(save: &str) -> String {
    format!(
        "echo \"$@\" >> asked\ncase $1 in image) echo $id ;; save) echo $$ > pid\n{save} ;; esac"
    )
}

fn failed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_image_is_asked_for_by_what_it_is_and_not_by_a_name_that_others_have_too() {
    let podman = has("printf whole");
    let machine = Machine::new(&[("docker", NOT_RUNNING), ("podman", &podman)]);
    let child = machine.import("shop/web");
    let mut stream = machine.accept();
    read_to(&mut stream, b"whole\r\n0\r\n\r\n");
    let length = IMAGE.len();
    let head = format!("HTTP/1.1 201 Created\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + IMAGE).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("image/web-1 ready (1 MB)"));
    let id = "0123456789abcdef".repeat(4);
    let asked = format!("image inspect --format {{{{.Id}}}} -- shop/web\nsave sha256:{id}\n");
    assert_eq!(machine.text("asked"), asked);
}

#[test]
fn what_each_of_them_said_is_told_if_none_has_the_image() {
    let unknown = "echo 'level=warning msg=odd' >&2; echo 'Error: image not known' >&2; exit 125";
    let machine = Machine::new(&[("docker", NOT_RUNNING), ("podman", unknown)]);
    assert_eq!(
        failed(machine.import("web:1")),
        "error: there is no image \"web:1\" to import (docker: Cannot connect to the Docker daemon. \
         Is it running?; podman: Error: image not known)\n\
         hint: get it from its registry: bhatti image pull web:1\n"
    );
    let machine = Machine::new(&[("docker", "echo rubbish"), ("podman", "kill -9 $$")]);
    let said = failed(machine.import("web:1"));
    assert!(
        said.contains("docker said \"rubbish\", which is no image; podman failed with"),
        "{said}"
    );
    let said = failed(Machine::new(&[]).import("web:1"));
    assert!(said.starts_with("error: neither docker nor podman is installed here\n"), "{said}");
    assert!(said.contains("bhatti image pull web:1"), "{said}");
}

#[test]
fn an_image_that_breaks_off_is_not_sent_as_if_it_were_whole() {
    // More than anybody keeps, and than a pipe holds, before the word that matters.
    let noise = "i=0; while [ $i -lt 3000 ]; do echo 'level=info copying a blob, more or less' >&2; \
                 i=$((i+1)); done; printf half; echo 'Error: no space left' >&2; exit 125";
    let machine = Machine::new(&[("podman", &has(noise))]);
    let child = machine.import("web:1");
    let mut rest = Vec::new();
    let _ = machine.accept().read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    assert_eq!(failed(child), "error: podman: Error: no space left\n");
}

#[test]
fn nobody_goes_on_saving_once_the_import_was_ended() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let machine = Machine::new(&[("podman", &has("printf half; exec /bin/sleep 1000"))]);
        let child = machine.import("web:1");
        let mut stream = machine.accept();
        read_to(&mut stream, b"half");
        let saving = Pid::from_raw(machine.text("pid").trim().parse().unwrap()).unwrap();
        test_kill_process(saving).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(test_kill_process(saving).is_err(), "it still runs");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    }
}

#[test]
fn whoever_is_asked_and_does_not_answer_is_not_waited_for_after_ctrl_c() {
    let machine = Machine::new(&[("docker", "echo $$ > pid; echo > ready; exec /bin/sleep 1000")]);
    let watched = machine.path("ready");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &watched,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let child = machine.import("web:1");
    fs::read(&watched).unwrap();
    let asked = Pid::from_raw(machine.text("pid").trim().parse().unwrap()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(test_kill_process(asked).is_err(), "it still runs");
}
