//! What goes on for long, through everything that a sandbox may go through.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use api::client::FilePart;
use e2e::{Guest, Node};

/// How often it goes to disk and back.
const CYCLES: u64 = 200;

/// Counts in memory and writes a chain to disk in which each link is made of the number and the link
/// before, which is also in memory.
const CHAIN: &str = "(n=0; m=0; while :; do n=$((n+1)); \
    m=$(echo $m $n | sha256sum | cut -c 1-64); echo $n $m >> /tmp/chain; usleep 10000; done) \
    >/dev/null 2>&1 & :";

/// Checks a chain from its first link on and gives the number of links.
fn check(chain: &str) -> u64 {
    let (mut number, mut memory) = (0, "0".to_owned());
    for line in chain.lines() {
        number += 1;
        memory = base::hash::bytes(format!("{memory} {number}\n").as_bytes());
        assert_eq!(line, format!("{number} {memory}"));
    }
    number
}

#[tokio::test]
async fn two_hundred_times_to_disk_and_back_a_program_goes_on_without_a_gap() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh(CHAIN).await;
    let mut seen: u64 = 0;
    for cycle in 0..CYCLES {
        let goes_on = format!(
            "until [ $(wc -l < /tmp/chain) -gt {seen} ]; do usleep 1000; done; wc -l < /tmp/chain"
        );
        seen = guest.sh(&goes_on).await.parse().unwrap();
        let stopped = guest.stop().await;
        assert_eq!(stopped.generation, guest.view().await.generation);
        assert!(node.monitors().is_empty(), "cycle {cycle}");
    }
    guest.root("sync; echo 3 > /proc/sys/vm/drop_caches").await;
    let chain = guest.read("/tmp/chain", FilePart::default()).await.unwrap();
    // The last line may be half written.
    let chain = String::from_utf8(chain).unwrap();
    let whole = &chain[..=chain.rfind('\n').unwrap()];
    assert!(check(whole) >= CYCLES.max(seen));
    let directory = node.data().join("sandboxes").join(&guest.id);
    let layers = e2e::files_below(&directory);
    let layers = layers.iter().filter(|path| path.to_string_lossy().ends_with(".qcow2")).count();
    assert!(layers <= 6, "{layers} layers");
}

#[tokio::test]
async fn a_connection_inside_the_guest_survives_stop_fork_and_resume() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    // Both ends are there for the whole time: the pipe into the client has a writer that stays.
    guest
        .sh("mkfifo /tmp/to; (nc -l -p 7000 -e cat >/dev/null 2>&1 &); \
             until grep -q ':1B58 .* 0A' /proc/net/tcp /proc/net/tcp6; do usleep 1000; done; \
             (sleep 1000000 > /tmp/to &) >/dev/null 2>&1; \
             (nc 127.0.0.1 7000 < /tmp/to > /tmp/from 2>/dev/null &); sleep 0.1")
        .await;
    let established = "grep -c ':1B58 .* 01 ' /proc/net/tcp; pidof cat nc | tr ' ' '\\n' | sort";
    let before = guest.sh(established).await;
    let say = async |guest: &mut Guest, word: &str| {
        let ask = format!(
            "echo {word} > /tmp/to; until [ \"$(tail -n 1 /tmp/from)\" = {word} ]; do usleep 1000; done"
        );
        guest.sh(&ask).await;
        assert_eq!(guest.sh(established).await, before, "{word}");
    };
    say(&mut guest, "begin").await;
    guest.stop().await;
    say(&mut guest, "stopped").await;
    guest.checkpoint("base").await;
    say(&mut guest, "kept").await;
    let mut copies = guest.fork("copy", 2, || node.admin()).await;
    copies.push(Guest::resumed(node.admin(), "base", "resumed").await);
    for (index, copy) in copies.iter_mut().enumerate() {
        say(copy, &format!("copy-{index}")).await;
        copy.stop().await;
        say(copy, &format!("stopped-{index}")).await;
    }
    say(&mut guest, "source").await;
    for (index, copy) in copies.iter_mut().enumerate() {
        say(copy, &format!("again-{index}")).await;
    }
}

/// How long it sleeps, seconds.
const ASLEEP: u64 = 4;

/// Of a sandbox that is on disk nothing moves but the wall clock: its uptime stands still, and a
/// program that sleeps for a while sleeps on for the rest when it is woken.
#[tokio::test]
async fn time_on_disk_is_no_time_for_uptime_and_timers() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let clocks = "cut -d ' ' -f 1 /proc/uptime; date +%s";
    guest
        .sh(&format!(
            "({clocks}; sleep 2; {clocks}) > /tmp/clocks 2>/dev/null & \
             until [ $(wc -l < /tmp/clocks) = 2 ]; do usleep 1000; done"
        ))
        .await;
    guest.stop().await;
    let asleep = tokio::time::timeout(Duration::from_secs(ASLEEP), std::future::pending::<()>());
    asleep.await.unwrap_err();
    let said = guest
        .sh("wc -l < /tmp/clocks; until [ $(wc -l < /tmp/clocks) = 4 ]; do usleep 1000; done; \
             cat /tmp/clocks")
        .await;
    let said: Vec<f64> = said.lines().map(|line| line.parse().unwrap()).collect();
    let [2.0, up, clock, up_later, clock_later] = said[..] else {
        panic!("it is not asleep any more: {said:?}");
    };
    assert!((2.0..3.5).contains(&(up_later - up)), "{said:?}");
    let real = clock_later - clock;
    assert!(real >= 1.0 + ASLEEP as f64 && real < 6.0 + ASLEEP as f64, "{said:?}");
}
