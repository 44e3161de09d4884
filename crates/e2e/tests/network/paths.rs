//! Who reaches whom.

use e2e::{Guest, Node, create_request};

use crate::{
    guests::{ALL, connects, echoes, get, ways},
    world::{GOOD, HOST, Heard, LAN, METADATA, World, guest_of, user},
};

async fn address(guest: &mut Guest) -> String {
    guest.view().await.ip.expect("it has an address")
}

/// The first address of a network, the gateway's, of a sandbox in it.
fn gateway(address: &str) -> String {
    let parts: Vec<u8> = address.split('.').map(|part| part.parse().unwrap()).collect();
    format!("{}.{}.{}.1", parts[0], parts[1], parts[2] & 0xfc)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_reach_those_of_their_owner_and_no_others() {
    let node = Node::start();
    let (alice, bob) = (user(&node, "alice").await, user(&node, "bob").await);
    let mut mine = guest_of(&node, &alice, "one").await;
    let mut second = guest_of(&node, &alice, "two").await;
    let mut theirs = guest_of(&node, &bob, "three").await;
    echoes(&mut second).await;
    echoes(&mut theirs).await;
    let (near, far) = (address(&mut second).await, address(&mut theirs).await);
    for way in [&near, "two", "two.bhatti", "TWO.bhatti."] {
        assert_eq!(ways(&mut mine, way).await, ALL, "{way}");
    }
    assert_eq!(ways(&mut mine, &far).await, [""; 0]);
    for name in ["three", "three.bhatti"] {
        assert_eq!(ways(&mut mine, name).await, [""; 0]);
    }
    assert_eq!(ways(&mut mine, &gateway(&far)).await, [""; 0]);
    assert!(!connects(&mut mine, &gateway(&far), 53).await, "another user's name server");

    // What its root can change does not help: another source, another hardware address, the
    // other network as its own.
    let own = address(&mut mine).await;
    let forged = far.rsplit_once('.').map(|(net, _)| format!("{net}.200")).unwrap();
    mine.root(&format!("ip addr add {forged}/22 dev eth0")).await;
    assert_eq!(ways(&mut mine, &far).await, [""; 0], "as one of the other network");
    mine.root(&format!("ip addr del {forged}/22 dev eth0")).await;
    let beside = own.rsplit_once('.').map(|(net, _)| format!("{net}.200")).unwrap();
    mine.root(&format!(
        "ip addr add {beside}/22 dev eth0; ip route replace {near} dev eth0 src {beside}"
    ))
    .await;
    assert_eq!(ways(&mut mine, &near).await, [""; 0], "with another address of its own network");
    mine.root(&format!("ip route del {near}; ip addr del {beside}/22 dev eth0")).await;
    assert_eq!(ways(&mut mine, &near).await, ALL);
    mine.root(
        "cat /sys/class/net/eth0/address > /tmp/mac; ip link set eth0 address 02:bb:00:00:03:ff",
    )
    .await;
    assert_eq!(ways(&mut mine, &near).await, [""; 0], "with another hardware address");
    mine.root("ip link set eth0 address $(cat /tmp/mac)").await;
    assert_eq!(ways(&mut mine, &near).await, ALL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_internet_is_reached_and_nothing_else_around_the_host() {
    let world = World::new();
    let node = world.node();
    let alice = user(&node, "alice").await;
    let mut guest = guest_of(&node, &alice, "dev").await;
    // The host's address is all that is seen.
    let seen = format!("{GOOD} to {HOST}");
    assert_eq!(get(&mut guest, "good.example").await, Some(seen.clone()));
    assert_eq!(get(&mut guest, GOOD).await, Some(seen.clone()));
    assert_eq!(ways(&mut guest, "good.example").await, ALL);
    assert!(world.heard().iter().all(|heard| heard.at == GOOD && heard.from.to_string() == HOST));

    let own = address(&mut guest).await;
    let uplink = world.host.ip("-br -4 addr show");
    let uplink = uplink.lines().find(|line| line.starts_with("bu")).expect("a way out");
    let uplink = uplink.split_whitespace().nth(2).unwrap().split('/').next().unwrap().to_owned();
    for address in [HOST, "192.168.77.1", &uplink, LAN, METADATA] {
        assert_eq!(ways(&mut guest, address).await, [""; 0], "{address}");
        assert!(!connects(&mut guest, address, 80).await, "{address}");
    }
    // A name of the internet that leads into the LAN has no address.
    assert_eq!(get(&mut guest, "rebind.example").await, None);
    // Of its gateway there is the name server, which it may ping.
    let gateway = gateway(&own);
    assert_eq!(ways(&mut guest, &gateway).await, ["icmp"]);
    for port in [80, 3129, node.tcp().port()] {
        assert!(!connects(&mut guest, &gateway, port).await, "port {port} of the gateway");
        assert!(!connects(&mut guest, HOST, port).await, "port {port} of the host");
    }
    // A source that is not its own leads nowhere, not even to the internet.
    guest.root("ip addr add 198.51.100.77/32 dev eth0").await;
    guest.root(&format!("ip route add {GOOD} via {gateway} src 198.51.100.77")).await;
    assert_eq!(ways(&mut guest, GOOD).await, [""; 0]);
    guest.root(&format!("ip route del {GOOD}")).await;
    assert_eq!(world.heard(), [] as [Heard; 0]);
    assert_eq!(get(&mut guest, GOOD).await, Some(seen));
    // Nobody comes in from outside.
    echoes(&mut guest).await;
    world.internet.ip(&format!("route add {own}/32 via {HOST}"));
    assert!(!world.internet.reaches(format!("{own}:7").parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_packet_of_ipv6_gets_anywhere() {
    let node = Node::start();
    let mut one = Guest::create(&node, "one").await;
    let mut two = Guest::create(&node, "two").await;
    assert_eq!(
        one.sh("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 2>/dev/null || echo 1").await,
        "1"
    );
    for guest in [&mut one, &mut two] {
        guest
            .root("cd /proc/sys/net/ipv6/conf/eth0; echo 0 > dad_transmits; echo 0 > disable_ipv6")
            .await;
    }
    one.root("ip -6 addr add fd00::1/64 dev eth0").await;
    two.root("ip -6 addr add fd00::2/64 dev eth0").await;
    // The kernel takes the address for its own, and would send.
    let usable = "until grep -q '^fd00.* 80 *eth0' /proc/net/if_inet6; do usleep 10000; done";
    one.root(&format!("timeout 10 sh -c \"{usable}\"")).await;
    one.root("! ping -6 -c 1 -W 2 fd00::2 >/dev/null 2>&1").await;
    // To a group its own kernel answers, so who hears it is asked.
    let received = "awk '/^Ip6InReceives/ { print $2 }' /proc/net/dev_snmp6/eth0";
    let before = two.root(received).await;
    one.root("ping -6 -c 2 -W 2 ff02::1%eth0 >/dev/null 2>&1 || :").await;
    assert_eq!(two.root(received).await, before);
    one.root("ping -c 1 -W 5 two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_goes_through_both_translations() {
    let world = World::new();
    let node = world.node();
    let image = Some("minimal".to_owned());
    let request = api::CreateSandbox { image, memory_mb: Some(256), ..create_request("dev") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    let page = guest.sh("curl -s --max-time 20 http://good.example/").await;
    assert_eq!(page, format!("{GOOD} to {HOST}"));
    assert_eq!(
        guest.sh("getent ahostsv4 dev.bhatti | head -n 1 | cut -d ' ' -f 1").await,
        address(&mut guest).await
    );
    guest.root("! curl -s --max-time 3 http://192.168.77.7/").await;
    assert!(world.heard().iter().all(|heard| heard.at == GOOD));
}
