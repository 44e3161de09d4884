//! Of what snapshots are taken, and what they hold.

use api::{ErrorCode, JobStatus, RestartPolicy, SnapshotType, StartFrom, Status, Thermal};
use e2e::{Guest, Living, Node, create_request, refused, sh};
use rustix::process::{Pid, Signal, kill_process};

const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

#[tokio::test]
async fn a_paused_sandbox_stays_paused() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    assert_eq!(Living::ask(&mut guest).await, 1);
    guest.client.pause(&guest.id).await.unwrap();
    let taken = guest.checkpoint("warm").await;
    assert_eq!(taken.paused_ms, None, "it stood still anyway");
    assert_eq!(guest.view().await.thermal, Some(Thermal::Warm));
    let mut copy = Guest::resumed(node.admin(), "warm", "copy").await;
    assert_eq!(guest.view().await.thermal, Some(Thermal::Warm));
    living.check(&mut copy, "the copy").await;
    assert_eq!(Living::ask(&mut copy).await, 2);
    living.check(&mut guest, "the source").await;
    assert_eq!(Living::ask(&mut guest).await, 2);
}

#[tokio::test]
async fn a_stopped_sandbox_stays_stopped() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    assert_eq!(Living::ask(&mut guest).await, 1);
    guest.sh("echo unsynced > /tmp/unsynced").await;
    let stopped = guest.stop().await;
    let memory = guest.checkpoint("memory").await;
    assert_eq!(memory.paused_ms, None);
    assert!(node.monitors().is_empty(), "it was woken for that");
    assert_eq!(guest.view().await, stopped);
    // Its disk is only whole once the guest has written to it what it holds in memory.
    guest.checkpoint_disk("disk").await;
    assert!(node.monitors().is_empty(), "it runs on");
    let after = guest.view().await;
    assert_eq!((&after.status, &after.thermal), (&Status::Stopped, &None));

    let mut copy = Guest::resumed(node.admin(), "memory", "copy").await;
    living.check(&mut copy, "the copy").await;
    assert_eq!(Living::ask(&mut copy).await, 2);
    let mut booted = Guest::resumed(node.admin(), "disk", "booted").await;
    assert_eq!(booted.sh("cat /tmp/unsynced; hostname").await, "unsynced\nbooted");
    living.check(&mut guest, "the source").await;
    assert_eq!(Living::ask(&mut guest).await, 2);
}

#[tokio::test]
async fn of_a_failed_sandbox_there_is_a_disk_and_no_memory() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("echo kept > /tmp/kept; sync").await;
    let monitor = Pid::from_raw(node.monitor(&guest.id)).unwrap();
    kill_process(monitor, Signal::KILL).unwrap();
    let failed = guest.failed().await;
    let body = refused(guest.snapshot_of("memory", SnapshotType::Memory).await);
    assert_eq!(body.code, ErrorCode::SandboxFailed, "{body:?}");
    assert!(body.hint.is_some(), "{body:?}");
    assert!(guest.client.snapshots().await.unwrap().is_empty());
    guest.checkpoint_disk("disk").await;
    assert_eq!(guest.view().await, failed);
    let mut copy = Guest::resumed(node.admin(), "disk", "copy").await;
    assert_eq!(copy.sh("cat /tmp/kept; hostname").await, "kept\ncopy");
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    assert_eq!(guest.sh("cat /tmp/kept").await, "kept");
}

#[tokio::test]
async fn a_snapshot_of_the_disk_boots_with_all_that_was_written() {
    let node = Node::start();
    let mut request = create_request("dev");
    request.init = Some("echo begun >> /tmp/runs; echo out; exec sleep 100000".to_owned());
    request.init_restart = Some(RestartPolicy::No);
    request.env = [("COLOUR".to_owned(), "red".to_owned())].into();
    let mut guest = Guest::create_by(node.admin(), request).await;
    let job = guest.detach(&sh("echo said; exec sleep 100000")).await;
    guest.sh("until [ -e /tmp/runs ] && pidof sleep | grep -q ' '; do usleep 1000; done").await;
    guest.sh("echo synced > /tmp/synced; sync; echo unsynced > /tmp/unsynced; echo lost > /dev/shm/lost").await;
    let boot = guest.sh(BOOT).await;
    let taken = guest.checkpoint_disk("disk").await;
    assert_eq!(taken.snapshot.kind, SnapshotType::Disk);
    assert!(taken.paused_ms.is_some());
    assert_eq!(guest.sh(BOOT).await, boot);
    guest.sh("cat /dev/shm/lost && pidof sleep | grep -q ' '").await;
    guest.sh("echo later > /tmp/later; sync").await;

    for name in ["one", "two"] {
        let mut copy = Guest::resumed(node.admin(), "disk", name).await;
        let found = copy.sh("cat /tmp/synced /tmp/unsynced; hostname; echo $COLOUR").await;
        assert_eq!(found, format!("synced\nunsynced\n{name}\nred"));
        copy.sh("test ! -e /dev/shm/lost && test ! -e /tmp/later").await;
        assert_ne!(copy.sh(BOOT).await, boot);
        copy.sh("until [ $(wc -l < /tmp/runs) = 2 ]; do usleep 1000; done").await;
        let lost = copy.client.job(&copy.id, &job).await.unwrap();
        assert_eq!((lost.status, lost.output_end), (JobStatus::Lost, 5));
        copy.stop().await;
        assert_eq!(copy.sh("cat /tmp/synced").await, "synced");
    }
    assert_eq!(guest.client.job(&guest.id, &job).await.unwrap().status, JobStatus::Running);
}
