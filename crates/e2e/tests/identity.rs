//! Children of one template have nothing in common that they should not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use api::StartFrom;
use e2e::{Guest, Node};

const WHO: &str = "hostname; cat /etc/hostname; cat /etc/machine-id; \
                   head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; \
                   cat /proc/sys/kernel/random/uuid; cat /proc/sys/kernel/random/boot_id; \
                   date +%s; grep -c $(hostname) /etc/hosts; mktemp -u";

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Whether a guest's clock, read between two looks at ours, is no more than 2 s off.
fn on_time(before: i64, guest: &str, after: i64) -> bool {
    let guest: i64 = guest.parse().unwrap();
    (before - 2..=after + 2).contains(&guest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_sandboxes_made_at_once_are_twelve_different_machines() {
    let node = std::sync::Arc::new(Node::start());
    let making: Vec<_> = (0..12)
        .map(|number| {
            let node = std::sync::Arc::clone(&node);
            tokio::spawn(async move {
                let mut guest = Guest::create(&node, &format!("dev-{number}")).await;
                let before = now();
                let said = guest.sh(WHO).await;
                let lines: Vec<String> = said.lines().map(str::to_owned).collect();
                assert!(on_time(before, &lines[6], now()), "{} is not {before}", lines[6]);
                lines
            })
        })
        .collect();
    let mut all = Vec::new();
    for (number, made) in making.into_iter().enumerate() {
        let lines = made.await.unwrap();
        assert_eq!((&lines[0], &lines[1]), (&format!("dev-{number}"), &lines[0]));
        assert_eq!(lines[2].len(), 32, "machine-id {}", lines[2]);
        assert_ne!(lines[7], "0", "its own name is in its hosts");
        all.push(lines);
    }
    for (line, what) in [
        (0, "hostname"),
        (2, "machine-id"),
        (3, "urandom"),
        (4, "random uuid"),
        (8, "a temporary name"),
    ] {
        let different: BTreeSet<&str> = all.iter().map(|lines| lines[line].as_str()).collect();
        assert_eq!(different.len(), 12, "{what}: {different:?}");
    }
    assert_eq!(node.monitors().len(), 12);
}

#[tokio::test]
async fn the_same_sandbox_wakes_as_itself_with_fresh_randomness_and_the_right_time() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let before: Vec<String> = guest.sh(WHO).await.lines().map(str::to_owned).collect();
    guest.sh("date -u +%s > /tmp/stopped; sync").await;
    guest.stop().await;
    let woken_at = now();
    let after: Vec<String> = guest.sh(WHO).await.lines().map(str::to_owned).collect();
    assert_eq!((&after[0], &after[2], &after[5]), (&before[0], &before[2], &before[5]));
    assert_ne!(after[3], before[3]);
    assert!(on_time(woken_at, &after[6], now()), "{after:?}");
}

#[tokio::test]
async fn one_snapshot_resumed_twice_does_not_repeat_its_random_numbers() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    // A reader that was in the middle of its random numbers when the snapshot was taken.
    guest.sh("mkfifo /tmp/go; (while read x < /tmp/go; do head -c 16 /dev/urandom | od -An -tx1 > /tmp/new; mv /tmp/new /tmp/random; done) >/dev/null 2>&1 & :").await;
    guest.stop().await;
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        guest.start(Some(StartFrom::Snapshot)).await.unwrap();
        let random =
            "echo x > /tmp/go; while [ ! -e /tmp/random ]; do usleep 1000; done; cat /tmp/random";
        assert!(seen.insert(guest.sh(random).await), "{seen:?}");
        let monitor = rustix::process::Pid::from_raw(node.monitor(&guest.id)).unwrap();
        rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
        guest.failed().await;
    }
}
