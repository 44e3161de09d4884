//! What goes on without the daemon, and what it makes good again.

use e2e::{Guest, Machine};

use crate::{
    guests::{ALL, Line, echoes, get, ways},
    world::{ECHO, GOOD, HOST, World},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_go_on_without_the_daemon_and_are_whole_after_it() {
    let world = World::new();
    let mut node = world.node();
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    let mut peer = Guest::create(&node, "peer").await;
    echoes(&mut guest).await;
    let near = guest.view().await.ip.unwrap();
    // Both count what comes back while nobody looks.
    let round = |address: &str| {
        format!(
            "nc {address} {ECHO} < /tmp/words-{address} > /tmp/heard-{address} & \
             while :; do echo w; usleep 20000; done > /tmp/words-{address}"
        )
    };
    for address in [near.as_str(), GOOD] {
        peer.root(&format!("mkfifo /tmp/words-{address}")).await;
        peer.detach(&e2e::root(&round(address))).await;
        peer.root(&format!("until [ -s /tmp/heard-{address} ]; do usleep 1000; done")).await;
    }
    peer.root(
        "cat > /tmp/look <<'EOF'\n\
         for i in $(seq 400); do echo $(cat /proc/uptime) $(wc -l < $1); usleep 50000; done\nEOF",
    )
    .await;
    for (name, address) in [("near", near.as_str()), ("far", GOOD)] {
        let look = format!("sh /tmp/look /tmp/heard-{address} > /tmp/seen-{name}");
        peer.detach(&e2e::root(&look)).await;
    }
    let now = "cut -d ' ' -f 1 /proc/uptime";
    let before: f64 = peer.root(now).await.parse().unwrap();
    node.kill9();
    // The other machine sees that it goes on: a second of it.
    let without = world.host.clone();
    for _ in 0..2 {
        assert!(!without.reaches("192.0.2.1:9".parse().unwrap()));
    }
    node.restart();
    let (mut guest, mut peer) = (guest.by(node.admin()), peer.by(node.admin()));
    for name in ["near", "far"] {
        // Never was there a second in which nothing came.
        let stalled = format!(
            "awk '$3 != last {{ if (last != \"\" && $1 - at > worst) worst = $1 - at; at = $1; \
             last = $3 }} END {{ print NR, worst, at }}' /tmp/seen-{name}"
        );
        let said = peer.root(&stalled).await;
        let numbers: Vec<f64> = said.split(' ').map(|number| number.parse().unwrap()).collect();
        assert!(numbers[1] < 2.0 && numbers[2] > before + 3.0, "{name}: {before}: {said}");
    }
    let state = node.admin().network().await.unwrap();
    assert!(state.open && state.findings.is_empty(), "{state:?}");
    let told = node.cli(&["network", "status"]);
    assert_eq!(String::from_utf8(told.stdout).unwrap(), "mode nat: networks: as they should be\n");
    assert_eq!(get(&mut guest, "good.example").await, Some(format!("{GOOD} to {HOST}")));
    let mut next = Guest::create(&node, "next").await;
    for name in ["dev", "good.example"] {
        assert_eq!(ways(&mut next, name).await, ALL, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_took_away_is_shown_and_mended_while_connections_go_on() {
    let world = World::new();
    let node = world.node();
    let mut guest = Guest::create(&node, "dev").await;
    let mut peer = Guest::create(&node, "peer").await;
    echoes(&mut guest).await;
    let near = Line::to(&mut peer, "dev", ECHO).await;
    let inside = Machine::held_by(node.monitor(&guest.id));
    let tables = world.host.nft("list tables");
    let table = tables.lines().find_map(|line| line.strip_prefix("table ")).unwrap().to_owned();
    let links = world.host.interfaces();
    let uplink = links.iter().find(|name| name.starts_with("bu")).unwrap();
    let status = async || node.admin().network().await.unwrap().findings;
    let repair = async |what: &str| {
        let shown = status().await;
        assert!(!shown.is_empty() && shown.iter().all(|finding| finding.mendable), "{what}");
        assert_eq!(node.admin().repair_network().await.unwrap().findings, shown, "{what}");
        assert_eq!(status().await, [], "{what}");
        shown
    };
    assert_eq!(status().await, []);

    world.host.nft(&format!("delete table {table}"));
    repair("rules of the host").await;
    inside.nft("delete table inet bhatti");
    repair("rules of the sandboxes").await;
    world.host.ip(&format!("addr flush dev {uplink}"));
    repair("an address").await;
    world.host.ip(&format!("link del {uplink}"));
    let shown = repair("the way out").await;
    assert!(shown.iter().any(|finding| finding.message.contains(uplink)), "{shown:?}");
    inside.ip("link set bb0 down");
    let shown = repair("a bridge").await;
    assert!(shown.iter().any(|finding| finding.message.contains("bb0")), "{shown:?}");
    assert!(near.says(&mut peer, "still").await);
    let told = node.cli(&["network", "repair"]);
    assert!(told.status.success());
    assert_eq!(ways(&mut peer, "good.example").await, ALL);
    assert_eq!(get(&mut guest, "good.example").await, Some(format!("{GOOD} to {HOST}")));
}
