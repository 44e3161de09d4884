//! What sandboxes share, and that none of them takes it all.

use std::net::SocketAddrV4;

use ipnet::Ipv4Net;
use net::{
    address::Pool,
    fabric::{Known, Networks, Policy, Settings, Uplink},
    policy::{Egress, Mode},
};

use crate::{
    frames::{Datagram, Guest, has},
    rig::{INTERNET, LAN, Machine, PORT, World, guest, hear, networks, on_a_host, settings},
};

/// Networks of so many users on a host that tracks so many connections.
async fn on_a_small_host(tracked: u32, users: u16) -> Networks {
    let settings = Settings { tracked: Some(tracked), ..settings("a", Uplink::Host) };
    let networks = Networks::open(settings, Known::default(), None).await.unwrap();
    for user in 0..users {
        networks.add_network(Pool::default().user(user)).await.unwrap();
    }
    networks
}

/// Opens so many connections to the internet.
fn connect(guest: &Guest, count: usize) {
    for source_port in (2000..).take(count) {
        guest.send(&Datagram { source_port, ..guest.routed((INTERNET, 9), b"one more") }.frame());
    }
}

#[test]
fn all_sandboxes_of_one_user_together_leave_connections_to_others() {
    on_a_host(|| async {
        let world = World::new().await;
        // An eighth of all is one user's.
        let networks = on_a_small_host(1600, 2).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        let other = guest(&networks, 1, 2).await;
        connect(&one, 150);
        connect(&two, 100);
        two.say((INTERNET, PORT), b"evil");
        world.round_trip(&other, "marker");
        world.assert_quiet();
        assert!(networks.drift().await.unwrap().is_empty());
        networks.close().await.unwrap();
    });
}

#[test]
fn all_users_together_leave_half_of_the_hosts_connections_to_the_host() {
    on_a_host(|| async {
        let _world = World::new().await;
        let networks = on_a_small_host(1024, 8).await;
        for user in 0..8 {
            let guest = guest(&networks, user, 2).await;
            connect(&guest, 128);
            guest.ping(guest.place.network().gateway());
            guest.until(b"ping");
        }
        let count = fs_err::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
        let count: u32 = count.trim().parse().unwrap();
        assert!((300..600).contains(&count), "{count}");
        assert!(networks.drift().await.unwrap().is_empty());
        networks.close().await.unwrap();
    });
}

#[test]
fn nobody_asks_so_much_that_others_are_not_heard() {
    on_a_host(|| async {
        let networks = networks("a", Uplink::None).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        let any = SocketAddrV4::new([0, 0, 0, 0].into(), 53);
        let names = networks.bind_udp(any).await.unwrap();
        let gateway = one.place.network().gateway();
        let mut heard = 0;
        let mut buffer = [0; 100];
        let mut hear = async || {
            // Readiness is learned from the runtime, which has to run for that.
            tokio::task::yield_now().await;
            while names.try_recv(&mut buffer).is_ok() {
                heard += 1;
            }
            heard
        };
        for _ in 0..120 {
            for _ in 0..100 {
                one.say((gateway, 53), b"name?");
            }
            hear().await;
        }
        let of_one = hear().await;
        assert!((2000..11_000).contains(&of_one), "{of_one}");
        two.say((gateway, 53), b"name?");
        names.readable().await.unwrap();
        assert_eq!(hear().await, of_one + 1);
        assert!(networks.drift().await.unwrap().is_empty());
    });
}

#[test]
fn who_has_a_place_hears_nothing_of_who_had_it_before() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let before = guest(&networks, 0, 2).await;
        before.say((INTERNET, PORT), b"hello");
        let (_, from) = hear(&world.internet);
        let tracked = || {
            let text = fs_err::read_to_string("/proc/thread-self/net/nf_conntrack");
            text.unwrap().lines().filter(|line| line.contains(&format!("dst={INTERNET}"))).count()
        };
        assert_eq!(tracked(), 1);
        let place = before.place;
        drop(before);
        networks.forget_connections(place).await;
        assert_eq!(tracked(), 0, "the host has forgotten it, too");
        let next = guest(&networks, 0, 2).await;
        world.internet.send_to(b"late", from).unwrap();
        let neighbour = guest(&networks, 0, 3).await;
        next.say((INTERNET, PORT), b"marker");
        let (_, from) = hear(&world.internet);
        world.internet.send_to(b"answer", from).unwrap();
        assert!(!next.until(b"answer").iter().any(|frame| has(frame, b"late")));
        drop(neighbour);
        networks.close().await.unwrap();
    });
}

#[test]
fn what_is_no_longer_allowed_ends_in_both_directions() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        one.say((INTERNET, PORT), b"hello");
        let (_, from) = hear(&world.internet);
        let lan = "192.168.50.0/24".parse().unwrap();
        let egress = Egress { mode: Mode::Deny, cidrs: vec![lan], ..Egress::default() };
        let policy = Policy { egress, ..Policy::default() };
        networks.set_policy(one.place, policy.clone()).await.unwrap();
        world.internet.send_to(b"late", from).unwrap();
        two.send(&two.bridged(&one, b"marker").frame());
        assert!(!one.until(b"marker").iter().any(|frame| has(frame, b"late")));
        // Who goes on is told, and not left to wait.
        one.syn((INTERNET, 80), 5001);
        assert!(!one.accepted((INTERNET, 80), 5001));
        // What stays allowed goes on.
        one.say((LAN, PORT), b"hello");
        let (_, from) = hear(&world.lan);
        let egress = Egress { cidrs: vec![lan], ..Egress::default() };
        networks.set_policy(one.place, Policy { egress, ..policy }).await.unwrap();
        world.lan.send_to(b"still", from).unwrap();
        one.until(b"still");
        networks.close().await.unwrap();
    });
}

#[test]
fn a_range_that_no_admin_gave_opens_nothing_that_is_closed() {
    on_a_host(|| async {
        let world = World::new().await;
        let forbidden = vec!["203.0.113.0/28".parse().unwrap()];
        let settings = Settings { forbidden, ..settings("a", Uplink::Host) };
        let networks = Networks::open(settings, Known::default(), None).await.unwrap();
        networks.add_network(Pool::default().user(0)).await.unwrap();
        let one = guest(&networks, 0, 2).await;
        let all = "0.0.0.0/0".parse().unwrap();
        let outside = Egress { mode: Mode::Deny, outside: vec![all], ..Egress::default() };
        let policy = |egress| Policy { egress, ..Policy::default() };
        networks.set_policy(one.place, policy(outside.clone())).await.unwrap();
        one.say((INTERNET, PORT), b"evil");
        one.say((LAN, PORT), b"evil");
        let gateway = one.place.network().gateway();
        one.ping(gateway);
        one.until(b"ping");
        world.assert_quiet();
        assert!(networks.drift().await.unwrap().is_empty());
        let by_admin = Egress { cidrs: vec![all], ..outside };
        networks.set_policy(one.place, policy(by_admin)).await.unwrap();
        world.round_trip(&one, "opened");
        networks.close().await.unwrap();
    });
}

#[test]
fn a_host_that_did_not_route_does_so_for_its_sandboxes_only() {
    for routed in [false, true] {
        on_a_host(|| async move {
            let world = World::new().await;
            let before = if routed { "1" } else { "0" };
            fs_err::write("/proc/sys/net/ipv4/ip_forward", before).unwrap();
            let first = networks("a", Uplink::Host).await;
            let kept = first.namespace().try_clone_to_owned().unwrap();
            drop(first);
            // The next daemon finds that it routes, and knows since when.
            let settings = settings("a", Uplink::Host);
            let networks = Networks::open(settings, Known::default(), Some(kept)).await.unwrap();
            networks.add_network(Pool::default().user(0)).await.unwrap();
            world.lan.send_to(b"across", (INTERNET, PORT)).unwrap();
            if routed {
                assert_eq!(hear(&world.internet).0, "across");
            }
            // What comes later is somebody else's affair.
            let later = Machine::new();
            let net = |address: [u8; 4]| Ipv4Net::new(address.into(), 24).unwrap();
            later.join("later0", net([192, 168, 60, 1]), net([192, 168, 60, 9])).await;
            let socket = later.hear([192, 168, 60, 9].into(), PORT);
            socket.send_to(b"container", (INTERNET, PORT)).unwrap();
            assert_eq!(hear(&world.internet).0, "container");
            world.round_trip(&guest(&networks, 0, 2).await, "marker");
            world.assert_quiet();
            assert!(networks.drift().await.unwrap().is_empty());
            networks.close().await.unwrap();
        });
    }
}

#[test]
fn what_an_earlier_daemon_left_in_the_host_goes() {
    on_a_host(|| async {
        let (rules, links) = (crate::rig::nft("list ruleset"), crate::rig::interfaces());
        drop(networks("a", Uplink::Host).await);
        assert_ne!(crate::rig::nft("list ruleset"), rules);
        Networks::clear_host("a").await.unwrap();
        Networks::clear_host("a").await.unwrap();
        assert_eq!((crate::rig::nft("list ruleset"), crate::rig::interfaces()), (rules, links));
        // And when there is to be no way out any more.
        let first = networks("a", Uplink::Host).await;
        let kept = first.namespace().try_clone_to_owned().unwrap();
        drop(first);
        let settings = settings("a", Uplink::None);
        let second = Networks::open(settings, Known::default(), Some(kept)).await.unwrap();
        assert!(!crate::rig::nft("list ruleset").contains("bhatti_a"));
        assert!(second.drift().await.unwrap().is_empty());
    });
}
