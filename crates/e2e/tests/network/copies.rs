//! Addresses and connections of what wakes and of what is copied.

use std::collections::BTreeSet;

use e2e::{Guest, Node};

use crate::{
    guests::{ALL, Line, connects, echoes, get, ways},
    world::{ECHO, GOOD, HOST, World},
};

/// Its address, its hardware address and its name.
async fn identity(guest: &mut Guest) -> [String; 3] {
    let said = guest
        .sh("ip -4 -o addr show dev eth0 | awk '{ sub(\"/.*\", \"\", $4); print $4 }'; \
             cat /sys/class/net/eth0/address; hostname")
        .await;
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(guest.view().await.ip.as_ref(), Some(&lines[0]));
    lines.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_addresses_outlive_a_stop() {
    let world = World::new();
    let node = world.node();
    let mut guest = Guest::create(&node, "dev").await;
    let mut peer = Guest::create(&node, "peer").await;
    echoes(&mut guest).await;
    let before = identity(&mut guest).await;
    let line = Line::to(&mut peer, "dev", ECHO).await;
    for round in 0..2 {
        guest.stop().await;
        line.tell(&mut peer, &format!("asleep{round}")).await;
        guest.start(None).await.unwrap();
        // The very first connection after a wake works, in and out.
        assert!(connects(&mut guest, GOOD, ECHO).await, "out, round {round}");
        assert_eq!(ways(&mut peer, "dev").await, ALL, "in, round {round}");
        assert!(line.hears(&mut peer, &format!("asleep{round}")).await);
        assert!(line.says(&mut peer, &format!("awake{round}")).await);
    }
    assert_eq!(identity(&mut guest).await, before);
    // The one that had the connection sleeps, and what it had said before is answered.
    peer.stop().await;
    assert!(line.says(&mut peer, "slept").await);
    // One to the internet, which waits for a sandbox that pauses.
    let out = Line::out(&mut guest).await;
    guest.stop().await;
    assert!(out.says(&mut guest, "woken").await);
    assert_eq!(get(&mut guest, "good.example").await, Some(format!("{GOOD} to {HOST}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_a_place_of_its_own_at_once() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut peer = Guest::create(&node, "peer").await;
    echoes(&mut guest).await;
    assert_eq!(ways(&mut peer, "dev").await, ALL);
    let own = identity(&mut guest).await;
    let line = Line::to(&mut peer, "dev", ECHO).await;
    let mut copies = guest.fork("copy", 3, || node.admin()).await;
    guest.checkpoint("snap").await;
    copies.push(Guest::resumed(node.admin(), "snap", "resumed").await);
    // What the source had goes on, and stays the source's.
    assert!(line.says(&mut peer, "during").await);
    let mut all = vec![own.clone(), identity(&mut peer).await];
    for copy in &mut copies {
        let [address, mac, name] = identity(copy).await;
        // The first packet arrives, by name, and is answered by the right one.
        assert_eq!(ways(&mut peer, &name).await, ALL, "{name}");
        let known = format!("ip neigh show {address} | grep -c -i {mac}");
        assert_eq!(peer.root(&known).await, "1", "{name}");
        for other in ["dev", "peer.bhatti"] {
            copy.root(&format!("ping -c 1 -W 5 {other}")).await;
        }
        all.push([address, mac, name]);
    }
    for part in 0..3 {
        let different: BTreeSet<&str> = all.iter().map(|parts| parts[part].as_str()).collect();
        assert_eq!(different.len(), all.len(), "{different:?}");
    }
    assert_eq!(identity(&mut guest).await, own);
    assert!(line.says(&mut peer, "after").await);
    // Two copies of one machine that speak with each other.
    let (one, rest) = copies.split_at_mut(1);
    assert_eq!(ways(&mut one[0], "copy-2").await, ALL);
    assert_eq!(ways(&mut rest[0], "copy-1").await, ALL);
    // A place that is free again is taken by the next, whom everybody finds.
    let [address, ..] = identity(&mut one[0]).await;
    copies.remove(0).destroy().await;
    peer.root("! ping -c 1 -W 1 copy-1 >/dev/null 2>&1").await;
    let mut next = Guest::create(&node, "next").await;
    echoes(&mut next).await;
    assert_eq!(ways(&mut peer, "next").await, ALL, "after {address}");
}
