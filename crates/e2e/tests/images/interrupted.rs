//! Ctrl-C in the program that people use, and what the daemon makes of it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
};

use api::{ErrorCode, TaskStatus};
use base::process::Command;
use e2e::{Node, refused, until};
use rustix::process::{Pid, Signal, kill_process};

use super::{layers_of, names, node, small};

/// A registry that lets everybody in and answers nobody.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.0.local_addr().unwrap())
    }

    /// Waits until somebody asks.
    fn asked(&self) -> TcpStream {
        let mut stream = self.0.accept().unwrap().0;
        stream.read_exact(&mut [0]).unwrap();
        stream
    }
}

fn start(command: Command) -> Child {
    let mut command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.as_std_mut().spawn().unwrap()
}

/// Ends it, and gives what it said.
fn interrupt(child: Child, signal: Signal) -> String {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + signal.as_raw()), "{output:?}");
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

async fn nothing_is_left(node: &Node) {
    until("nothing is left", async || {
        let data = node.data();
        let left = ["incoming", "sandboxes"].map(|directory| names(&data.join(directory)));
        (layers_of(node) + left[0] + left[1] + node.monitors().len() == 0).then_some(())
    })
    .await;
    let images = node.admin().images().await.unwrap();
    assert!(!images.iter().any(|image| image.scope == api::ImageScope::Own), "{images:?}");
}

#[tokio::test]
async fn a_pull_goes_on_without_whoever_asked_for_it_until_it_is_cancelled() {
    let node = node();
    let silent = Silent::new();
    for signal in [Signal::INT, Signal::TERM] {
        let child = start(node.program(&["image", "pull", &silent.reference("x:1")]));
        let asking = silent.asked();
        let said = interrupt(child, signal);
        let task = said.split(['(', ')']).find(|word| word.starts_with("task_"));
        let task = task.unwrap_or_else(|| panic!("{said}"));
        assert_eq!(node.admin().task(task).await.unwrap().status, TaskStatus::Running, "{said}");
        node.admin().task_cancel(task).await.unwrap();
        let ended = until("it ends", async || {
            let status = node.admin().task(task).await.unwrap().status;
            (status != TaskStatus::Running).then_some(status)
        })
        .await;
        assert_eq!(ended, TaskStatus::Cancelled);
        drop(asking);
        nothing_is_left(&node).await;
    }
}

#[tokio::test]
async fn an_import_that_was_ended_is_as_if_it_had_never_begun() {
    let node = node();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.tar");
    small("one").archive(&path, "x:1");
    let archive = fs_err::read(&path).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let args = ["image", "import", "--tar", "-", "--name", "x"];
        let mut child = start(node.program(&args));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&archive[..archive.len() - 2048]).unwrap();
        until("it comes", async || (names(&node.data().join("incoming")) > 0).then_some(())).await;
        interrupt(child, signal);
        nothing_is_left(&node).await;
        drop(stdin);
    }
    assert_eq!(refused(node.admin().image("x").await).code, ErrorCode::ImageNotFound);
}

#[tokio::test]
async fn a_create_that_still_pulls_makes_no_sandbox_once_nobody_waits_for_it() {
    let node = node();
    // Once the registry has gone.
    node.expect_warning("a pull failed");
    let silent = Silent::new();
    let args = ["create", "--image", &silent.reference("x:1"), "--name", "dev"];
    let child = start(node.program(&args));
    let asking = silent.asked();
    let said = interrupt(child, Signal::INT);
    assert!(said.contains("what the daemon has begun it ends: a pull, or the sandbox"), "{said}");
    drop((asking, silent));
    nothing_is_left(&node).await;
    assert_eq!(refused(node.admin().sandbox("dev").await).code, ErrorCode::SandboxNotFound);
}
