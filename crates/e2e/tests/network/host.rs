//! What sandboxes do to the host that they are on.

use e2e::Guest;

use crate::{
    guests::{ALL, Line, echoes, get, ways},
    world::{GOOD, HOST, World},
};

/// The host's interfaces, rules and routes.
fn look(world: &World) -> (Vec<String>, String, String) {
    let (interfaces, rules) = (world.host.interfaces(), world.host.nft("-s list ruleset"));
    (interfaces, rules, world.host.ip("route"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_share_a_host_and_nothing_of_them_stays() {
    let world = World::new();
    let before = look(&world);
    let (mut one, mut two) = (world.node(), world.node());
    assert_eq!(look(&world), before, "a daemon without sandboxes touches nothing");
    let mut first = Guest::create(&one, "dev").await;
    let mut second = Guest::create(&two, "dev").await;
    echoes(&mut second).await;
    let seen = Some(format!("{GOOD} to {HOST}"));
    for guest in [&mut first, &mut second] {
        assert_eq!(get(guest, "good.example").await, seen);
    }
    let line = Line::out(&mut second).await;
    first.destroy().await;
    one.terminate();
    assert!(line.says(&mut second, "alone").await);
    one.restart();
    let mut first = Guest::create(&one, "dev").await;
    assert_eq!(get(&mut first, "good.example").await, seen);
    for node in [&one, &two] {
        let state = node.admin().network().await.unwrap();
        assert!(state.open && state.findings.is_empty(), "{state:?}");
    }
    let [here, there] = [first.view().await.ip.unwrap(), second.view().await.ip.unwrap()];
    if here != there {
        assert_eq!(ways(&mut first, &there).await, [""; 0]);
    }
    first.destroy().await;
    second.destroy().await;
    one.terminate();
    two.terminate();
    assert_eq!(look(&world), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_like_docker_s_are_passed_and_left_as_they_are() {
    let world = World::new();
    for rule in [
        "add table ip filter",
        "add chain ip filter DOCKER-USER",
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
        "add rule ip filter FORWARD jump DOCKER-USER",
        "add rule ip filter FORWARD iifname docker0 accept",
        "add rule ip filter DOCKER-USER ip saddr 192.0.2.1 drop",
        "add table ip nat",
        "add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }",
        "add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 oifname != docker0 masquerade",
    ] {
        world.host.nft(rule);
    }
    let before = look(&world);
    let mut node = world.node();
    let mut guest = Guest::create(&node, "dev").await;
    assert_eq!(get(&mut guest, "good.example").await, Some(format!("{GOOD} to {HOST}")));
    assert_eq!(ways(&mut guest, GOOD).await, ALL);
    let rules = world.host.nft("-s list chain ip filter DOCKER-USER");
    assert!(rules.contains("ip saddr 192.0.2.1 drop"), "{rules}");
    assert_eq!(node.admin().network().await.unwrap().findings, []);
    guest.destroy().await;
    node.terminate();
    assert_eq!(look(&world), before);
}
