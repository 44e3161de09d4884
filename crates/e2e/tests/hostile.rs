//! Guests that mean no good: the harm is theirs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{ErrorCode, Status};
use e2e::{DISK_MB, Guest, Node, refused, root, sh};

#[tokio::test]
async fn a_guest_that_turns_itself_off_or_panics_fails_with_the_cause_and_can_be_started() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    node.expect_warning("code=agent_unreachable");
    node.expect_warning("code=vm_died");
    let mut guest = Guest::create(&node, "dev").await;
    let mut causes = Vec::new();
    for script in ["poweroff -f", "reboot -f", "echo c > /proc/sysrq-trigger"] {
        guest.sh("echo kept > /tmp/kept; sync").await;
        // Whoever asks for it hears of the end or of nothing.
        let asked = guest.exec(&root(script)).await;
        assert!(asked.is_err() || asked.as_ref().unwrap().exit_code != 0, "{script}: {asked:?}");
        let failure = guest.failed().await.failure.unwrap();
        causes.push((script, failure.cause));
        guest.start(None).await.unwrap();
        assert_eq!(guest.sh("cat /tmp/kept").await, "kept", "{script}");
    }
    let clear = ["powered off", "turned itself off", "rebooted", "shut down", "panic", "the guest"];
    let says = |cause: &String| clear.iter().any(|word| cause.contains(word));
    assert!(causes.iter().all(|(_, cause)| says(cause)), "{causes:#?}");
    guest.root("kill -9 1; kill -STOP 1; echo still").await;
    assert_eq!(guest.sh("echo here").await, "here");
}

#[tokio::test]
async fn a_guest_that_floods_its_console_fills_nothing() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest
        .root(
            "yes flood | head -c 2000000 > /dev/ttyS0; yes log | head -c 200000 > /dev/kmsg; true",
        )
        .await;
    assert_eq!(guest.sh("echo here").await, "here");
    let run = node.data().join("run").join(&guest.id);
    let sizes =
        std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let size: u64 = sizes.sum();
    assert!(size < 4096, "the guest has written {size} bytes there");
    assert!(node.log().len() < 200, "the guest writes the daemon's log");
    guest.stop().await;
    assert_eq!(guest.sh("echo here").await, "here");
}

#[tokio::test]
async fn a_guest_that_fills_its_disk_is_told_so_and_goes_on() {
    let node = Node::start();
    node.expect_warning("code=guest_disk_full");
    let mut guest = Guest::create(&node, "dev").await;
    let full =
        guest.exec(&root("dd if=/dev/zero of=/tmp/fill bs=1048576; df -m / >&2")).await.unwrap();
    assert!(full.stderr.contains("No space left"), "{full:?}");
    let written = guest.exec(&root("stat -c %s /tmp/fill")).await.unwrap().stdout;
    assert!(written.trim().parse::<u64>().unwrap() >> 20 < DISK_MB, "{written}");
    let body = refused(guest.write("/tmp/more", vec![7; 4 << 20]).await);
    assert_eq!(body.code, ErrorCode::GuestDiskFull, "{body:?}");
    assert_eq!(guest.sh("ls -A /tmp").await, "fill", "a half-made file stays");
    guest.stop().await;
    guest.root("rm /tmp/fill").await;
    guest.write("/tmp/more", vec![7; 4 << 20]).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_eats_its_memory_harms_only_its_own_processes() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut other = Guest::create(&node, "other").await;
    let monitor = node.monitor(&guest.id);
    // Everything in one string; the guest's kernel ends it.
    let eaten = guest.exec(&sh("tail /dev/zero")).await.unwrap();
    assert_ne!(eaten.exit_code, 0, "{eaten:?}");
    assert_eq!(guest.sh("echo here").await, "here");
    // What lies in memory cannot be taken back, so anything may be ended for it, even the shell.
    guest.exec(&root("dd if=/dev/zero of=/dev/shm/f bs=1048576")).await.unwrap();
    guest.root("rm -f /dev/shm/f").await;
    assert_eq!(guest.view().await.status, Status::Running);
    assert_eq!(node.monitor(&guest.id), monitor);
    assert_eq!(other.sh("echo here").await, "here");
    guest.stop().await;
    assert_eq!(guest.sh("echo here").await, "here");
}

#[tokio::test]
async fn a_guest_that_takes_its_agent_away_can_still_be_destroyed() {
    let node = Node::start();
    node.expect_warning("connection is lost");
    // An agent without its port may well turn the guest off.
    node.expect_warning("the VM ended");
    let mut guest = Guest::create(&node, "dev").await;
    let mut other = Guest::create(&node, "other").await;
    let unbind = "cd /sys/bus/virtio/drivers/virtio_console && (usleep 200000; for d in virtio*; do \
                  echo $d > unbind; done) >/dev/null 2>&1 &";
    guest.root(unbind).await;
    assert_eq!(other.sh("echo here").await, "here");
    let destroyed = guest.client.destroy(&guest.id).await.unwrap();
    assert_eq!(destroyed.id, guest.id);
    assert_eq!(node.monitors().len(), 1);
    assert_eq!(other.sh("echo here").await, "here");
}
