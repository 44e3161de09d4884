//! What breaks, and what is left.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{path::Path, time::Duration};

use api::{ErrorCode, StartFrom, StartedFrom, Status};
use e2e::{Guest, Node, Options, create_request, refused, sh};
use rustix::process::{Pid, Signal, kill_process};

/// A command that is not over by then never will be.
const HANGS: Duration = Duration::from_secs(60);

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Flips one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    // Not in a hole, which may well be skipped.
    let middle = bytes.len() / 2;
    let at = (middle..bytes.len()).find(|at| bytes[*at] != 0).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// The directory of a sandbox's only snapshot.
fn snapshot(node: &Node, id: &str) -> std::path::PathBuf {
    let entries = std::fs::read_dir(node.data().join("sandboxes").join(id)).unwrap();
    let mut found = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snapshot-"));
    let only = found.next().unwrap();
    assert!(found.next().is_none());
    only
}

#[tokio::test]
async fn a_killed_monitor_is_a_failure_that_a_start_gets_over() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    guest
        .sh("echo kept > /tmp/kept; sync; echo lost > /dev/shm/lost; sleep 1000 >/dev/null 2>&1 &")
        .await;
    kill(node.monitor(&guest.id));
    let failed = guest.failed().await;
    let failure = failed.failure.clone().unwrap();
    assert!(failure.cause.contains("signal") || failure.cause.contains("SIGKILL"), "{failure:?}");
    assert!(!failure.can_resume_snapshot && failed.thermal.is_none());
    assert!(node.monitors().is_empty() && node.groups().is_empty());

    let body = refused(guest.exec(&sh("true")).await);
    assert_eq!(body.code, ErrorCode::SandboxFailed);
    assert!(body.hint.is_some_and(|hint| hint.contains("bhatti start dev")));
    assert!(body.error.contains(&failure.cause), "{}", body.error);
    for other in [guest.client.pause(&guest.id).await, guest.client.stop(&guest.id, drop).await] {
        assert_eq!(refused(other).code, ErrorCode::SandboxFailed);
    }
    let body = refused(guest.start(Some(StartFrom::Snapshot)).await);
    assert_eq!(body.code, ErrorCode::WrongState, "there is none");
    assert_eq!(guest.view().await.status, Status::Failed);
    let shown = node.cli(&["inspect", "dev"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&failure.cause));

    let started = guest.start(None).await.unwrap();
    assert_eq!(started.started_from, Some(StartedFrom::Disk));
    assert_eq!((&started.status, &started.failure), (&Status::Running, &None));
    assert_eq!(guest.sh("cat /tmp/kept; hostname").await, "kept\ndev");
    guest.sh("test ! -e /dev/shm/lost && ! pidof sleep").await;
    guest.stop().await;
    assert_eq!(guest.sh("cat /tmp/kept").await, "kept", "a snapshot of a booted one wakes too");
}

#[tokio::test]
async fn a_snapshot_can_be_gone_back_to_after_a_failure() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("echo before > /tmp/f; echo memory > /dev/shm/f; sleep 1000 >/dev/null 2>&1 & echo $! > /tmp/pid; sync").await;
    guest.stop().await;
    guest.sh("echo after > /tmp/f; echo after > /tmp/new; echo after > /dev/shm/f; sync").await;
    kill(node.monitor(&guest.id));
    let failure = guest.failed().await.failure.unwrap();
    assert!(failure.can_resume_snapshot && failure.snapshot_taken_at.is_some());
    let hint = refused(guest.exec(&sh("true")).await).hint.unwrap();
    assert!(hint.contains("--from disk") && hint.contains("--from snapshot"), "{hint}");

    let started = guest.start(Some(StartFrom::Snapshot)).await.unwrap();
    assert_eq!(started.started_from, Some(StartedFrom::Snapshot));
    assert_eq!(guest.sh("cat /tmp/f /dev/shm/f").await, "before\nmemory");
    guest.sh("test ! -e /tmp/new && kill -0 $(cat /tmp/pid)").await;

    // And from the disk, to what was written last.
    guest.sh("echo last > /tmp/f; sync").await;
    kill(node.monitor(&guest.id));
    guest.failed().await;
    let started = guest.start(Some(StartFrom::Disk)).await.unwrap();
    assert_eq!(started.started_from, Some(StartedFrom::Disk));
    assert_eq!(guest.sh("cat /tmp/f").await, "last");
    guest.sh("! kill -0 $(cat /tmp/pid) 2>/dev/null").await;
    let running = refused(guest.start(Some(StartFrom::Disk)).await);
    assert_eq!(running.code, ErrorCode::WrongState);
}

#[tokio::test]
async fn a_command_under_way_is_told_that_its_vm_died() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    node.expect_warning("code=agent_unreachable");
    node.expect_warning("code=vm_died");
    let (client, id) = (&mut guest.client, guest.id.clone());
    let mut events = client.exec_stream(&id, &sh("echo up; sleep 1000")).await.unwrap();
    // That it runs, and what it says.
    for _ in 0..2 {
        events.next().await.unwrap();
    }
    kill(node.monitor(&id));
    match events.next().await {
        Ok(Some(api::StreamEvent::Error(body))) => {
            let told = [ErrorCode::VmDied, ErrorCode::AgentUnreachable].contains(&body.code);
            assert!(told, "{body:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_of_the_host_fails_a_stop_and_nothing_else() {
    let node = Node::with(&Options { sandboxes_bytes: Some(96 << 20), ..Options::default() });
    node.expect_warning("code=host_disk_full");
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("sleep 1000 >/dev/null 2>&1 & echo $! > /dev/shm/pid; dd if=/dev/urandom of=/dev/shm/r bs=65536 count=64 2>/dev/null").await;
    let monitor = node.monitor(&guest.id);
    let filler = node.data().join("sandboxes/filler");
    let full = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&filler).unwrap());
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    for _ in 0..2 {
        let body = refused(guest.client.stop(&guest.id, drop).await);
        assert_eq!(body.code, ErrorCode::HostDiskFull, "{body:?}");
        assert!(body.hint.is_some());
        assert_eq!(guest.view().await.status, Status::Running);
        guest.sh("kill -0 $(cat /dev/shm/pid)").await;
        assert_eq!(node.monitor(&guest.id), monitor);
    }
    let other = refused(node.admin().create(&create_request("other"), drop).await);
    assert_eq!(other.code, ErrorCode::HostDiskFull);
    assert_eq!(node.admin().sandboxes(&[]).await.unwrap().len(), 1);
    std::fs::remove_file(&filler).unwrap();
    guest.stop().await;
    guest.sh("kill -0 $(cat /dev/shm/pid)").await;
    Guest::create(&node, "other").await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_found_out_and_the_disk_is_still_good() {
    let node = Node::start();
    for file in ["pages", "devices", "manifest.json"] {
        let name = format!("dev-{}", &file[..3]);
        let mut guest = Guest::create(&node, &name).await;
        guest.sh("echo kept > /tmp/kept; sync").await;
        guest.stop().await;
        damage(&snapshot(&node, &guest.id).join(file));
        for _ in 0..2 {
            let body = refused(guest.start(None).await);
            assert_eq!(body.code, ErrorCode::SnapshotCorrupt, "{file}: {body:?}");
            let way_out = body.hint.as_ref().is_some_and(|hint| hint.contains("--from disk"));
            assert!(way_out, "{file}: {body:?}");
            assert_eq!(guest.view().await.status, Status::Stopped, "{file}");
        }
        assert_eq!(refused(guest.exec(&sh("true")).await).code, ErrorCode::SnapshotCorrupt);
        assert!(!node.monitors().iter().any(|(_, of)| *of == guest.id), "{file}");
        let started = guest.start(Some(StartFrom::Disk)).await.unwrap();
        assert_eq!(started.started_from, Some(StartedFrom::Disk));
        assert_eq!(guest.sh("cat /tmp/kept").await, "kept");
        guest.stop().await;
        assert_eq!(guest.sh("cat /tmp/kept").await, "kept", "{file}: the next snapshot is good");
    }
}

#[tokio::test]
async fn a_snapshot_that_names_the_wrong_disk_layers_costs_no_data() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("echo kept > /tmp/kept; sync").await;
    guest.stop().await;
    let path = snapshot(&node, &guest.id).join("manifest.json");
    let text = std::fs::read(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let layers = manifest.pointer_mut("/body/facts/layers").expect("the manifest names its layers");
    *layers = serde_json::json!([7]);
    std::fs::write(&path, manifest.to_string()).unwrap();
    let body = refused(guest.start(None).await);
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    assert_eq!(guest.sh("cat /tmp/kept || echo LOST").await, "kept");
    assert_eq!(body.code, ErrorCode::SnapshotCorrupt, "{body:?}");
}

#[tokio::test]
async fn a_guest_that_writes_to_a_full_disk_of_the_host_goes_on_once_there_is_room() {
    let node = Node::with(&Options { sandboxes_bytes: Some(96 << 20), ..Options::default() });
    node.expect_warning("the guest waits for room");
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("sleep 1000 >/dev/null 2>&1 & echo $! > /dev/shm/pid").await;
    let filler = node.data().join("sandboxes/filler");
    let full = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&filler).unwrap());
    full.unwrap_err();
    let mut writer = guest.by(node.admin());
    let write = sh("dd if=/dev/urandom of=/tmp/big bs=65536 count=64 2>&1; sync; echo written");
    let mut writing = tokio::spawn(async move { writer.exec(&write).await });
    // Whether it waits for room or is told that there is none, it is not for ever. Nothing tells
    // us that a guest waits, so it gets a moment to come to that point.
    let early = tokio::time::timeout(Duration::from_secs(3), &mut writing).await;
    std::fs::remove_file(&filler).unwrap();
    let written = match early {
        Ok(written) => written,
        Err(_) => tokio::time::timeout(HANGS, writing).await.expect("the command hangs"),
    };
    let written = written.unwrap().unwrap();
    assert!(written.stdout.contains("written"), "{written:?}");
    guest.sh("kill -0 $(cat /dev/shm/pid)").await;
    assert_eq!(guest.sh("echo more > /tmp/more && sync && cat /tmp/more").await, "more");
}

#[tokio::test]
async fn a_damaged_template_is_replaced_and_its_children_keep_their_disks() {
    let mut node = Node::with(&Options { recorded_templates: false, ..Options::default() });
    node.expect_warning("a template is not usable");
    let mut old = Guest::create(&node, "old").await;
    old.sh("echo kept > /tmp/kept; sync").await;
    old.stop().await;
    node.terminate();
    let templates = node.data().join("templates");
    let entries = std::fs::read_dir(&templates).unwrap().map(|entry| entry.unwrap().path());
    let instances: Vec<_> = entries.filter(|path| !path.ends_with("keys")).collect();
    assert_eq!(instances.len(), 1);
    damage(&instances[0].join("ram"));
    node.restart();

    let mut new = Guest::create(&node, "new").await;
    assert_eq!(new.sh("hostname").await, "new");
    let body = refused(old.start(None).await);
    assert_eq!(body.code, ErrorCode::SnapshotCorrupt, "{body:?}");
    assert!(body.hint.is_some(), "{body:?}");
    old.start(Some(StartFrom::Disk)).await.unwrap();
    assert_eq!(old.sh("cat /tmp/kept").await, "kept");
}
