//! What a policy lets through.

use api::{
    CreateSandbox, EditSandbox, Egress, EgressAttempt, EgressMode, ErrorCode, Network,
    NetworkLimits,
};
use e2e::{Guest, Node, create_request, refused};

use crate::{
    guests::{ALL, Line, connects, get, hello, request, send, ways},
    world::{FLOOD, GOOD, HOST, LAN, OTHER, World, user},
};

pub(crate) fn policy(mode: EgressMode, hosts: &[&str], cidrs: &[&str]) -> Egress {
    let own = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
    Egress { mode, allow_hosts: own(hosts), allow_cidrs: own(cidrs) }
}

pub(crate) fn allow(hosts: &[&str]) -> Egress {
    policy(EgressMode::Allowlist, hosts, &[])
}

/// A small sandbox of the admin's with a policy.
pub(crate) async fn guest_with(node: &Node, name: &str, egress: Egress) -> Guest {
    let request = CreateSandbox { egress: Some(egress), ..create_request(name) };
    Guest::create_by(node.admin(), request).await
}

pub(crate) async fn change(guest: &mut Guest, egress: Egress) {
    let request = EditSandbox { egress: Some(egress), ..EditSandbox::default() };
    guest.client.edit(&guest.id, &request).await.unwrap();
}

/// Whether the log of a guest has an attempt with this address or host and reason.
pub(crate) fn has(log: &[EgressAttempt], target: &str, allowed: bool, reason: &str) -> bool {
    let is_it = |attempt: &EgressAttempt| {
        let targets = [attempt.address.as_deref(), attempt.host.as_deref()];
        targets.contains(&Some(target)) && attempt.allowed == allowed && attempt.reason == reason
    };
    log.iter().any(is_it)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_stood_ready_gets_what_its_owner_says_and_no_more() {
    let world = World::new();
    let node = world.ready_node().await;
    let mut listed = guest_with(&node, "listed", allow(&["good.example"])).await;
    node.stands_ready().await;
    assert_eq!(get(&mut listed, "good.example").await, Some(format!("{GOOD} to {HOST}")));
    assert_eq!(get(&mut listed, "other.example").await, None);
    let mut closed = guest_with(&node, "closed", policy(EgressMode::Deny, &[], &[])).await;
    node.stands_ready().await;
    let request = CreateSandbox { network: Some(Network::None), ..create_request("alone") };
    let mut alone = Guest::create_by(node.admin(), request).await;
    node.stands_ready().await;
    world.heard();
    for guest in [&mut closed, &mut alone] {
        assert!(ways(guest, GOOD).await.is_empty() && ways(guest, LAN).await.is_empty());
    }
    assert_eq!(
        alone.sh("ip -4 -o addr show dev eth0; grep nameserver /etc/resolv.conf || :").await,
        ""
    );
    assert_eq!(world.heard(), []);
    // Somebody mends the networks: who is alone stays so.
    node.admin().repair_network().await.unwrap();
    // Woken in a monitor that stood ready, they are what they were.
    for guest in [&mut closed, &mut alone, &mut listed] {
        guest.stop().await;
        guest.start(None).await.unwrap();
        node.stands_ready().await;
        assert!(ways(guest, LAN).await.is_empty());
    }
    assert!(ways(&mut alone, GOOD).await.is_empty());
    assert_eq!(get(&mut listed, "good.example").await, Some(format!("{GOOD} to {HOST}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allow_list_holds_for_names_and_their_addresses_only() {
    let world = World::new();
    let node = world.node();
    let mut guest = guest_with(&node, "dev", allow(&["good.example"])).await;
    let seen = format!("{GOOD} to {HOST}");
    assert_eq!(get(&mut guest, "good.example").await, Some(seen.clone()));
    assert!(send(&mut guest, GOOD, 80, &request("good.example")).await.contains(&seen));
    world.heard();
    send(&mut guest, GOOD, 443, &hello("good.example")).await;
    let heard = world.heard();
    assert_eq!(heard.iter().map(|heard| heard.at).collect::<Vec<_>>(), [GOOD]);
    assert_eq!(heard[0].said, hello("good.example"), "what was read goes on unchanged");

    assert_eq!(get(&mut guest, "other.example").await, None);
    assert_eq!(get(&mut guest, "rebind.example").await, None);
    for (address, host) in [
        (GOOD, "other.example"),
        (OTHER, "good.example"),
        (OTHER, "other.example"),
        (LAN, "good.example"),
    ] {
        let said = send(&mut guest, address, 80, &request(host)).await;
        assert!(!said.contains(" 200 "), "{host} at {address}: {said}");
        send(&mut guest, address, 443, &hello(host)).await;
    }
    assert_eq!(ways(&mut guest, OTHER).await, [""; 0]);
    let heard = world.heard();
    assert!(heard.is_empty(), "{heard:?}");

    let log = guest.client.egress_log(&guest.id).await.unwrap();
    for (target, allowed, reason) in [
        ("good.example", true, "host"),
        ("other.example", false, "name_not_allowed"),
        ("other.example", false, "host_not_allowed"),
        ("good.example", false, "host_not_bound"),
        ("rebind.example", false, "name_not_allowed"),
    ] {
        assert!(has(&log.attempts, target, allowed, reason), "{target} {reason}: {log:#?}");
    }
    // Whoever may ask for it still is not led into the LAN.
    change(&mut guest, allow(&["*.example"])).await;
    assert_eq!(get(&mut guest, "rebind.example").await, None);
    assert_eq!(get(&mut guest, "other.example").await, Some(format!("{OTHER} to {HOST}")));
    let log = guest.client.egress_log(&guest.id).await.unwrap();
    assert!(has(&log.attempts, "rebind.example", false, "rebinding"), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_suggests_lets_the_same_pass() {
    let world = World::new();
    let node = world.node();
    let mut guest = guest_with(&node, "dev", allow(&[])).await;
    let pages = async |guest: &mut Guest| {
        let by_name = [get(guest, "good.example").await, get(guest, "other.example").await];
        (by_name, get(guest, OTHER).await, ways(guest, LAN).await)
    };
    assert_eq!(pages(&mut guest).await, ([None, None], None, Vec::new()));
    let output = node.cli(&["egress", "log", "dev", "--suggest"]);
    let flags = String::from_utf8(output.stdout).unwrap().replace('\'', "");
    let words: Vec<&str> = ["edit", "dev"].into_iter().chain(flags.split_whitespace()).collect();
    let edited = node.cli(&words);
    assert!(edited.status.success(), "{flags}: {}", String::from_utf8_lossy(&edited.stderr));
    let ([good, other], direct, lan) = pages(&mut guest).await;
    let expected = [GOOD, OTHER].map(|at| Some(format!("{at} to {HOST}")));
    assert_eq!([good, other], expected, "{flags}");
    assert_eq!((direct, lan), (expected[1].clone(), ALL.map(str::to_owned).into()), "{flags}");
    let listed = String::from_utf8(node.cli(&["egress", "log", "dev"]).stdout).unwrap();
    assert!(listed.contains("denied") && listed.contains("allowed"), "{listed}");
    guest.stop().await;
    assert!(!guest.client.egress_log(&guest.id).await.unwrap().attempts.is_empty());
    assert_eq!(guest.view().await.status, api::Status::Stopped, "looking does not wake it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_admin_opens_the_lan_and_a_change_holds_for_connections_that_are_there() {
    let world = World::new();
    let node = world.node();
    let alice = user(&node, "alice").await;
    let mut theirs = Guest::create_by(node.client(&alice), create_request("theirs")).await;
    let lan = policy(EgressMode::Open, &[], &["192.168.77.0/24"]);
    let edit = EditSandbox { egress: Some(lan.clone()), ..EditSandbox::default() };
    let outcome = theirs.client.edit(&theirs.id, &edit).await;
    assert_eq!(refused(outcome).code, ErrorCode::PermissionDenied);
    let create = CreateSandbox { egress: Some(lan.clone()), ..create_request("more") };
    let outcome = theirs.client.create(&create, drop).await.map(drop);
    assert_eq!(refused(outcome).code, ErrorCode::PermissionDenied);
    assert_eq!(ways(&mut theirs, LAN).await, [""; 0]);

    let mut guest = guest_with(&node, "dev", lan).await;
    let line = Line::to(&mut guest, LAN, 7).await;
    change(&mut guest, policy(EgressMode::Open, &[], &[])).await;
    assert!(line.is_cut(&mut guest, "closed").await);
    assert_eq!(ways(&mut guest, LAN).await, [""; 0]);

    let line = Line::out(&mut guest).await;
    change(&mut guest, policy(EgressMode::Deny, &[], &[])).await;
    assert!(line.is_cut(&mut guest, "denied").await);
    assert_eq!(ways(&mut guest, GOOD).await, [""; 0]);
    // It has ended; a new one begins once it may.
    change(&mut guest, policy(EgressMode::Open, &[], &[])).await;
    Line::out(&mut guest).await;

    // A connection by way of the proxy ends with what allowed it.
    change(&mut guest, allow(&["good.example"])).await;
    let line = Line::to(&mut guest, "good.example", 7).await;
    change(&mut guest, allow(&["other.example"])).await;
    assert!(line.is_cut(&mut guest, "another").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_network_there_is_no_address_and_no_way() {
    let world = World::new();
    let node = world.node();
    let request = CreateSandbox { network: Some(Network::None), ..create_request("alone") };
    let mut alone = Guest::create_by(node.admin(), request).await;
    let mut peer = Guest::create(&node, "peer").await;
    assert_eq!(alone.view().await.ip, None);
    assert_eq!(alone.sh("ip -4 -o addr show dev eth0").await, "");
    let near = peer.view().await.ip.unwrap();
    for address in [near.as_str(), "peer", GOOD, "good.example"] {
        assert_eq!(ways(&mut alone, address).await, [""; 0], "{address}");
    }
    // An address that its root takes leads nowhere.
    alone.root(&format!("ip addr add {near}/22 dev eth0")).await;
    let (net, _) = near.rsplit_once('.').unwrap();
    alone.root(&format!("ip route add default via {net}.1")).await;
    assert!(!connects(&mut alone, &format!("{net}.1"), 53).await);
    assert_eq!(get(&mut alone, GOOD).await, None);
    assert_eq!(ways(&mut peer, "alone").await, [""; 0]);
    assert!(world.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_holds_each_way() {
    let world = World::new();
    let node = world.node();
    let mut guest = Guest::create(&node, "dev").await;
    let flood = format!("timeout 2 nc {GOOD} {FLOOD} < /dev/null | wc -c");
    let taken = async |guest: &mut Guest| guest.sh(&flood).await.parse::<u64>().unwrap();
    let free = taken(&mut guest).await;
    let limits = NetworkLimits { bytes_per_second: Some(100_000), packets_per_second: None };
    let edit = EditSandbox { network_limits: Some(limits), ..EditSandbox::default() };
    guest.client.edit(&guest.id, &edit).await.unwrap();
    let capped = taken(&mut guest).await;
    // Two seconds and a burst of a quarter of a megabyte, with some room for a slow host.
    assert!((10_000..1_000_000).contains(&capped), "{capped}");
    assert!(free > 4 * capped, "{free} without and {capped} with a cap");

    let none = NetworkLimits::default();
    let edit = EditSandbox { network_limits: Some(none), ..EditSandbox::default() };
    guest.client.edit(&guest.id, &edit).await.unwrap();
    let pings = format!("ping -A -q -w 3 {GOOD} | awk '/received/ {{ print $4 }}'");
    let free: u64 = guest.root(&pings).await.parse().unwrap();
    let limits = NetworkLimits { bytes_per_second: None, packets_per_second: Some(10) };
    let edit = EditSandbox { network_limits: Some(limits), ..EditSandbox::default() };
    guest.client.edit(&guest.id, &edit).await.unwrap();
    let capped: u64 = guest.root(&pings).await.parse().unwrap();
    // Three seconds and a burst of 64.
    assert!((1..130).contains(&capped), "{capped}");
    assert!(free > 2 * capped, "{free} without and {capped} with a cap");
}
