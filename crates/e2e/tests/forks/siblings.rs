//! Copies have nothing in common that they should not.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use base::process::Command;
use e2e::{Guest, Node, root};

/// The parts of a machine that no two may have in common, a line each. The first is the time, which
/// has to be right in the first command already.
const WHO: &str = "adjtimex | awk '/tv_sec/ { s = $2 } /tv_usec/ { u = $2 } END { print s, u }'; \
    hostname; cat /etc/hostname /etc/machine-id /run/bhatti/generation; grep 127.0.1.1 /etc/hosts; \
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; \
    cat /proc/sys/kernel/random/uuid; mktemp -u; \
    echo x > /tmp/ask; cat /tmp/answer; \
    LD_LIBRARY_PATH=/opt /opt/ld.so /opt/openssl rand -hex 16; \
    ip -4 -o addr show dev eth0 | awk '{ print $4 }'; cat /sys/class/net/eth0/address; \
    cat /proc/sys/kernel/random/boot_id";
const PARTS: [&str; 13] = [
    "host name",
    "/etc/hostname",
    "machine id",
    "generation",
    "own line in /etc/hosts",
    "/dev/urandom",
    "uuid",
    "name of a temporary file",
    "/dev/urandom by a process that lived before",
    "OpenSSL",
    "address",
    "hardware address",
    "boot id",
];
/// The only part that copies share with a source that has ever looked at it: they have not booted.
const SHARED: &str = "boot id";
/// The parts that follow from a place in the network.
const PLACE: [&str; 2] = ["address", "hardware address"];

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// What one machine says of itself, part by part.
async fn who(guest: &mut Guest) -> Vec<String> {
    let before = now();
    let said = guest.exec(&root(WHO)).await.unwrap();
    let after = now();
    let mut lines = said.stdout.lines();
    let time = lines.next().unwrap_or_default();
    let (seconds, micros) = time.split_once(' ').unwrap_or_else(|| panic!("{said:?}"));
    let time: f64 = seconds.parse::<f64>().unwrap() + micros.parse::<f64>().unwrap() / 1e6;
    assert!((before - 1.0..=after + 1.0).contains(&time), "{time} is not {before} to {after}");
    let parts: Vec<String> = lines.map(str::to_owned).collect();
    assert_eq!(parts.len(), PARTS.len(), "{said:?}");
    assert!(parts.iter().all(|part| !part.is_empty()), "{parts:?}");
    parts
}

/// That no part of any is a part of another. Places in the network are free again for the next when
/// a machine is gone, so they differ only among those that were there `at_once`.
fn all_differ(all: &[Vec<String>], at_once: bool) {
    for (index, part) in PARTS.iter().enumerate() {
        if PLACE.contains(part) && !at_once {
            continue;
        }
        let different: BTreeSet<&str> = all.iter().map(|parts| parts[index].as_str()).collect();
        let expected = if *part == SHARED { 1 } else { all.len() };
        assert_eq!(different.len(), expected, "{part}: {different:?}");
    }
}

/// A machine with the host's OpenSSL and a process that has the random generator open and uses it
/// when it is asked.
async fn source(node: &Node) -> Guest {
    let mut guest = Guest::create(node, "dev").await;
    let needed = Command::new("ldd").arg("/usr/bin/openssl").output();
    let needed = String::from_utf8(needed.expect("the host has OpenSSL")).unwrap();
    let paths = needed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain(["/usr/bin/openssl"]) {
        let name = path.rsplit('/').next().unwrap();
        let name = if name.starts_with("ld-") { "ld.so" } else { name };
        guest.write(&format!("/tmp/{name}"), std::fs::read(path).unwrap()).await.unwrap();
    }
    guest
        .root(
            "mkdir -p /opt; cd /tmp; mv ld.so openssl *.so.* /opt; chmod 755 /opt/*; \
               mkfifo ask answer; (exec 3</dev/urandom; while read x < ask; do \
               head -c 16 <&3 | od -An -tx1 > answer; done) >/dev/null 2>&1 & \
               cat /proc/sys/kernel/random/boot_id",
        )
        .await;
    guest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_forks_are_thirty_different_machines() {
    let node = Node::start();
    let mut guest = source(&node).await;
    // Far behind, as after a long sleep: a copy must not believe it.
    guest.root("date -s @1000000000").await;
    let mut copies = Vec::new();
    for round in 0..3 {
        copies.extend(guest.fork(&format!("r{round}"), 10, || node.admin()).await);
    }
    let ids: BTreeSet<String> = copies.iter().map(|copy| copy.id.clone()).collect();
    assert_eq!(ids.len(), 30);
    assert_eq!(node.monitors().len(), 31);
    let asking: Vec<_> = copies
        .into_iter()
        .map(|mut copy| tokio::spawn(async move { who(&mut copy).await }))
        .collect();
    let mut all = Vec::new();
    for asked in asking {
        all.push(asked.await.unwrap());
    }
    // Its own clock is the one that was set.
    let said = guest.exec(&root(WHO)).await.unwrap().stdout;
    all.push(said.lines().skip(1).map(str::to_owned).collect());
    all_differ(&all, true);
}

#[tokio::test]
async fn one_snapshot_resumed_thirty_times_is_thirty_different_machines() {
    let node = Node::start();
    let mut guest = source(&node).await;
    guest.root("date -s @1000000000").await;
    guest.checkpoint("base").await;
    guest.destroy().await;
    let mut all = Vec::new();
    for number in 0..30 {
        let mut copy = Guest::resumed(node.admin(), "base", &format!("copy-{number}")).await;
        all.push(who(&mut copy).await);
        copy.destroy().await;
    }
    all_differ(&all, false);
}
