//! To disk and back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{SystemTime, UNIX_EPOCH};

use api::{ErrorCode, StartedFrom, Status, StreamEvent, Thermal};
use e2e::{Guest, Node, refused, sh};

/// Counts in memory and writes every number down, on disk and in a file system in memory.
const COUNTER: &str = "(n=0; while :; do n=$((n+1)); echo $n >> /tmp/disk; echo $n >> /dev/shm/memory; \
                       usleep 20000; done) >/dev/null 2>&1 & echo $! > /tmp/pid";
/// Fails if a number is missing or was written twice.
const GAPLESS: &str = "for f in /tmp/disk /dev/shm/memory; do \
                       awk 'NR != $1 { print FILENAME, NR, $1; exit 1 }' $f || exit 1; done; \
                       wc -l < /tmp/disk";
/// Returns once the counter has gone on.
const GOES_ON: &str =
    "was=$(wc -l < /tmp/disk); while [ $(wc -l < /tmp/disk) = $was ]; do usleep 1000; done";

#[tokio::test]
async fn a_woken_sandbox_goes_on_as_if_nothing_had_been() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh(COUNTER).await;
    // A process that is in the middle of a file: its position lives in the kernel.
    guest.sh("seq 1 1000 > /tmp/seq; mkfifo /tmp/ask /tmp/answer").await;
    guest.sh("(exec 3</tmp/seq; while read x < /tmp/ask; do read l <&3; echo $l > /tmp/answer; done) >/dev/null 2>&1 & :").await;
    for expected in ["1", "2", "3"] {
        assert_eq!(guest.sh("echo x > /tmp/ask; cat /tmp/answer").await, expected);
    }
    let boot = guest.sh("cat /proc/sys/kernel/random/boot_id; cat /tmp/pid").await;
    guest.sh(GOES_ON).await;

    let stopped = guest.stop().await;
    assert_eq!((&stopped.status, &stopped.thermal), (&Status::Stopped, &None));
    assert!(stopped.stopped_at.is_some() && stopped.snapshot_size_mb.is_some_and(|mb| mb > 0));
    assert!(node.monitors().is_empty() && node.groups().is_empty(), "its memory is not freed");
    assert_eq!(guest.view().await, stopped, "looking at it has woken it");
    assert_eq!(node.admin().sandboxes(&[]).await.unwrap()[0].status, Status::Stopped);
    assert_eq!(guest.stop().await.generation, stopped.generation, "it was stopped already");
    assert!(node.monitors().is_empty());

    guest.sh(GAPLESS).await;
    guest.sh(GOES_ON).await;
    guest.sh(GAPLESS).await;
    assert_eq!(guest.sh("echo x > /tmp/ask; cat /tmp/answer").await, "4");
    assert_eq!(guest.sh("cat /proc/sys/kernel/random/boot_id; cat /tmp/pid").await, boot);
    let woken = guest.view().await;
    assert_eq!((&woken.status, &woken.thermal), (&Status::Running, &Some(Thermal::Hot)));
    assert!(woken.generation > stopped.generation && woken.stopped_at.is_none());

    guest.stop().await;
    let started = guest.start(None).await.unwrap();
    assert_eq!(started.started_from, Some(StartedFrom::Snapshot));
    let again = guest.start(None).await.unwrap();
    assert_eq!(again.started_from, Some(StartedFrom::Memory));
    guest.sh(GAPLESS).await;
}

#[tokio::test]
async fn twenty_times_to_disk_and_back_keep_a_chain_of_hashes() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    // Every link is made by one process that lives through all of it, from memory and disk alike.
    guest
        .sh("mkfifo /tmp/ask /tmp/answer; echo 0 > /tmp/disk; \
              (m=0; while read x < /tmp/ask; do \
              m=$(echo $m $x $(cat /tmp/disk) | sha256sum | cut -c1-64); \
              echo $m > /tmp/disk; sync; echo $m > /tmp/answer; done) >/dev/null 2>&1 & :")
        .await;
    let (mut memory, mut disk) = ("0".to_owned(), "0".to_owned());
    for round in 0..20 {
        let got = guest.sh(&format!("echo {round} > /tmp/ask; cat /tmp/answer")).await;
        memory = base::hash::bytes(format!("{memory} {round} {disk}\n").as_bytes());
        disk.clone_from(&memory);
        assert_eq!(got, memory, "round {round}");
        guest.stop().await;
        assert!(node.monitors().is_empty(), "round {round}");
    }
    assert_eq!(guest.sh("cat /tmp/disk").await, disk);
    let directory = node.data().join("sandboxes").join(&guest.id);
    let snapshots = std::fs::read_dir(&directory).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("snapshot")
    });
    assert!(snapshots.count() <= 2, "the newest, and perhaps the one before it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_commands_that_find_it_asleep_wake_it_once() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh(COUNTER).await;
    for _ in 0..2 {
        let stopped = guest.stop().await;
        let commands: Vec<_> = (0..50)
            .map(|number| {
                let mut guest = guest.by(node.admin());
                tokio::spawn(async move { guest.sh(&format!("echo {number}")).await })
            })
            .collect();
        for (number, command) in commands.into_iter().enumerate() {
            assert_eq!(command.await.unwrap(), number.to_string());
        }
        node.monitor(&guest.id);
        assert_eq!(guest.view().await.generation, stopped.generation + 1, "it was woken twice");
        guest.sh(GAPLESS).await;
    }
}

#[tokio::test]
async fn a_paused_sandbox_stands_still_until_it_is_used() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh(COUNTER).await;
    let monitor = node.monitor(&guest.id);
    let paused = guest.client.pause(&guest.id).await.unwrap();
    assert_eq!((&paused.status, &paused.thermal), (&Status::Running, &Some(Thermal::Warm)));
    assert_eq!(guest.client.pause(&guest.id).await.unwrap().generation, paused.generation);
    let resumed = guest.client.resume(&guest.id).await.unwrap();
    assert_eq!(resumed.thermal, Some(Thermal::Hot));
    assert_eq!(guest.client.resume(&guest.id).await.unwrap().generation, resumed.generation);
    guest.sh(GAPLESS).await;

    guest.client.pause(&guest.id).await.unwrap();
    assert_eq!(guest.view().await.thermal, Some(Thermal::Warm), "looking at it has resumed it");
    guest.sh(GAPLESS).await;
    assert_eq!(guest.view().await.thermal, Some(Thermal::Hot));
    assert_eq!(node.monitor(&guest.id), monitor);

    guest.client.pause(&guest.id).await.unwrap();
    guest.stop().await;
    assert!(node.monitors().is_empty());
    for refusal in [guest.client.pause(&guest.id).await, guest.client.resume(&guest.id).await] {
        let body = refused(refusal);
        assert_eq!(body.code, ErrorCode::WrongState);
        assert!(body.hint.is_some());
    }
    guest.sh(GAPLESS).await;
    guest.sh(GOES_ON).await;
}

#[tokio::test]
async fn the_clock_is_right_whenever_a_command_sees_it() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(now.as_secs()).unwrap()
    };
    for round in 0..3 {
        // As after a long sleep: the guest's own idea of the time is far behind.
        guest.root("date -s @1000000000").await;
        match round {
            0 => drop(guest.stop().await),
            1 => drop(guest.client.pause(&guest.id).await.unwrap()),
            _ => {
                guest.client.pause(&guest.id).await.unwrap();
                guest.stop().await;
            }
        }
        let before = now();
        let seen: i64 = guest.sh("date +%s").await.parse().unwrap();
        assert!((before - 2..=now() + 2).contains(&seen), "round {round}: {seen}, not {before}");
    }
}

#[tokio::test]
async fn a_command_that_runs_when_it_is_stopped_runs_on_after_it_is_woken() {
    let node = Node::start();
    node.expect_warning("code=agent_unreachable");
    let mut guest = Guest::create(&node, "dev").await;
    let mut other = guest.by(node.admin());
    let script = "echo begun; n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo $n > /tmp/n; usleep 1000; done; echo over > /tmp/over";
    let mut events = guest.client.exec_stream(&guest.id, &sh(script)).await.unwrap();
    assert!(matches!(events.next().await.unwrap(), Some(StreamEvent::Started { .. })));
    assert!(matches!(events.next().await.unwrap(), Some(StreamEvent::Stdout(_))));
    other.stop().await;
    // Whoever watched is told that the command's end will not be seen, and not that it succeeded.
    let last = loop {
        match events.next().await {
            Ok(Some(StreamEvent::Stdout(_) | StreamEvent::Stderr(_))) => {}
            other => break other,
        }
    };
    assert!(!matches!(last, Ok(None | Some(StreamEvent::Exit { .. }))), "{last:?}");
    drop(events);
    other.sh("touch /tmp/end; while [ ! -e /tmp/over ]; do usleep 1000; done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_stops_that_cross_lose_nothing() {
    let node = Node::start();
    node.expect_warning("code=agent_unreachable");
    let guest = Guest::create(&node, "dev").await;
    for round in 0..12 {
        let (mut stopping, mut running) = (guest.by(node.admin()), guest.by(node.admin()));
        let script = format!("echo {round} >> /tmp/log; sync; echo {round}");
        let (stopped, ran) = tokio::join!(
            tokio::spawn(async move { stopping.client.stop(&stopping.id, drop).await }),
            tokio::spawn(async move { running.exec(&sh(&script)).await }),
        );
        stopped.unwrap().unwrap();
        // It ran before, ran after by waking it, or was cut off by the stop; nothing else.
        match ran.unwrap() {
            Ok(answer) => assert_eq!(answer.stdout, format!("{round}\n")),
            Err(error) => {
                let body = error.to_body();
                assert_eq!(body.code, ErrorCode::AgentUnreachable, "round {round}: {body:?}");
            }
        }
        let mut guest = guest.by(node.admin());
        assert_eq!(guest.sh("echo alive").await, "alive", "round {round}");
        node.monitor(&guest.id);
    }
    let mut guest = guest.by(node.admin());
    guest.sh("sort -n /tmp/log | uniq -d | grep . && exit 1; exit 0").await;
}
