//! What stands ready before anybody needs it, and whether it is as good as what is made on demand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod faults;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use api::{CreateSandbox, ForkSandbox, StartFrom};
use e2e::{Content, Found, Guest, Node, Options, create_request, status_field};
use rustix::process::{Pid, Signal, kill_process};

/// What is left in the log if what stood ready was not used.
const USELESS: &str = "what was kept ready cannot be used";

/// A node that keeps one of each ready, and has done so.
async fn ready(faults: bool) -> Node {
    let node = Node::with(&Options { prestarted: 1, faults, ..Options::default() });
    warm(&node).await;
    node
}

/// Has a daemon that has only started keep what it is to keep.
async fn warm(node: &Node) {
    let mut first = Guest::create(node, "first").await;
    first.client.destroy(&first.id).await.unwrap();
    node.stands_ready().await;
}

/// Those that are nobody's.
fn spare(node: &Node) -> Vec<i32> {
    let all = node.monitors();
    all.iter().filter(|(_, of)| of.starts_with("spare-")).map(|(pid, _)| *pid).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_stood_ready_is_as_new_as_any() {
    let node = ready(false).await;
    let mut seen: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 4];
    for number in 1..=4 {
        let standing = spare(&node);
        let name = format!("box-{number}");
        let env = BTreeMap::from([("OWN".to_owned(), name.clone())]);
        let request = CreateSandbox { env, ..create_request(&name) };
        let mut guest = Guest::create_by(node.admin(), request).await;
        assert!(standing.contains(&node.monitor(&guest.id)), "nothing stood ready for {name}");
        let who = "hostname; cat /etc/hostname; grep -c $OWN /etc/hosts; \
                   grep -rlE 'rehearsal' /etc /run /tmp 2>/dev/null | wc -l; \
                   cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; \
                   cat /proc/sys/kernel/random/uuid; cat /run/bhatti/generation";
        let said = guest.sh(who).await;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(&lines[..4], [name.as_str(), name.as_str(), "1", "0"], "{lines:?}");
        for (values, value) in seen.iter_mut().zip(&lines[4..]) {
            assert!(values.insert((*value).to_owned()), "{value} again");
        }
        // One address, its own, and one way out.
        let ip = guest.view().await.ip.unwrap();
        let addresses = guest.sh("ip -4 -o addr show eth0 | awk '{ print $4 }'").await;
        assert_eq!(addresses, format!("{ip}/22"));
        assert_eq!(guest.root("ip route | grep -c default").await, "1");
        let resolver = guest.sh("awk '/nameserver/ { print $2 }' /etc/resolv.conf").await;
        assert!(guest.sh(&format!("nslookup {name}.bhatti {resolver}")).await.contains(&ip));
        let jobs = guest.client.jobs(&guest.id).await.unwrap();
        assert!(jobs.is_empty(), "{jobs:?}");
        node.stands_ready().await;
    }
    // The first and the last see each other.
    let mut last = Guest { client: node.admin(), id: "box-4".to_owned() };
    last.root("ping -c 1 box-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_confined_and_limited_like_any_other() {
    let mut node = ready(false).await;
    let mut guests = Vec::new();
    for number in 1..=3 {
        guests.push(Guest::create(&node, &format!("box-{number}")).await);
        node.stands_ready().await;
    }
    // Made at the same time, so that at least two of them are not from what stood ready.
    let (mut a, b) = tokio::join!(Guest::create(&node, "a"), Guest::create(&node, "b"));
    a.stop().await;
    a.start(None).await.unwrap();
    guests.extend([a, b]);
    node.stands_ready().await;
    for round in ["before", "after"] {
        let uid = |pid| status_field(pid, "Uid").split_whitespace().next().unwrap().to_owned();
        let monitors = node.monitors();
        let uids: BTreeSet<String> = monitors.iter().map(|(pid, _)| uid(*pid)).collect();
        assert_eq!(uids.len(), monitors.len(), "{round}: {monitors:?} share {uids:?}");
        for guest in &guests {
            let pid = node.monitor(&guest.id);
            assert_eq!(status_field(pid, "CapEff"), "0000000000000000");
            assert_eq!(status_field(pid, "NoNewPrivs"), "1");
            let with_limit = node.groups().into_iter().filter(|group| {
                let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
                members.lines().any(|line| line == pid.to_string())
            });
            let (count, all) = (with_limit.count(), node.groups().len());
            assert!(count > 0 || all == 0, "{round}: {} is in none of {all} groups", guest.id);
        }
        // The next daemon knows all of it again.
        node.kill9();
        node.restart();
        for guest in &mut guests {
            guest.client = node.admin();
            guest.sh("true").await;
        }
    }
    let mut another = Guest::create(&node, "another").await;
    another.sh("true").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wakes_or_is_copied_in_a_monitor_that_stood_ready_loses_nothing() {
    let node = ready(false).await;
    let mut guest = Guest::create(&node, "box").await;
    node.stands_ready().await;
    let content = Content::plant(&mut guest).await;
    for _ in 0..3 {
        guest.stop().await;
        let standing = spare(&node);
        guest.start(None).await.unwrap();
        assert!(standing.contains(&node.monitor(&guest.id)), "nothing stood ready");
        content.check(&mut guest, Found::Everything, "woken").await;
        node.stands_ready().await;
    }
    let standing = spare(&node);
    let copies = guest.client.fork(&guest.id, &ForkSandbox::default()).await.unwrap();
    let mut copy = Guest { client: node.admin(), id: copies[0].id.clone() };
    assert!(standing.contains(&node.monitor(&copy.id)), "nothing stood ready");
    content.check(&mut copy, Found::Everything, "in the copy").await;
    content.check(&mut guest, Found::Everything, "in the source").await;
    // Also from the disk, and from what it was before.
    copy.stop().await;
    copy.start(Some(StartFrom::Disk)).await.unwrap();
    content.check(&mut copy, Found::Disk, "from disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_died_while_it_stood_ready_is_made_anew_and_nobody_notices() {
    let node = ready(false).await;
    node.expect_warning(USELESS);
    for number in 1..=2 {
        for pid in spare(&node) {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
        let mut guest = Guest::create(&node, &format!("box-{number}")).await;
        assert_eq!(guest.sh("hostname").await, format!("box-{number}"));
        guest.stop().await;
        assert_eq!(guest.sh("hostname").await, format!("box-{number}"));
        node.stands_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stands_ready_without_a_daemon_or_on_a_host_that_is_short_of_memory() {
    let mut node = ready(false).await;
    assert_eq!(spare(&node).len(), 2);
    node.terminate();
    assert_eq!(node.monitors(), []);
    node.restart();
    let guest = Guest::create(&node, "box").await;
    node.stands_ready().await;
    node.kill9();
    assert_eq!(spare(&node).len(), 2);
    node.restart();
    assert_eq!(node.monitors(), [(node.monitor(&guest.id), guest.id.clone())]);
    drop(node);

    let memory_low_mb = Some(1 << 30);
    let node = Node::with(&Options { prestarted: 1, memory_low_mb, ..Options::default() });
    let guest = Guest::create(&node, "box").await;
    let mut other = Guest::create(&node, "other").await;
    other.sh("true").await;
    assert!(node.monitors().iter().all(|(_, of)| *of == guest.id || *of == other.id));
}
