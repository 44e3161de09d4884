//! What changes with a policy.

use std::net::SocketAddrV4;

use net::{
    fabric::{Caps, Policy, Uplink},
    policy::{Egress, Mode},
};

use crate::{
    frames::{Datagram, has},
    rig::{HOST, INTERNET, LAN, PORT, PROXY_PORT, World, guest, hear, networks, on_a_host, place},
};

fn policy(mode: Mode, cidrs: &[&str]) -> Policy {
    let cidrs = cidrs.iter().map(|range| range.parse().unwrap()).collect();
    Policy { egress: Egress { mode, cidrs, ..Egress::default() }, caps: Caps::default() }
}

#[test]
fn a_denied_guest_reaches_what_is_allowed_and_nothing_else() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        networks.set_policy(one.place, policy(Mode::Deny, &[])).await.unwrap();
        one.say((INTERNET, PORT), b"evil");
        one.send(&one.bridged(&two, b"own network").frame());
        two.until(b"own network");
        world.round_trip(&two, "marker");
        world.assert_quiet();
        let ranges = ["192.168.50.8/30", "192.168.50.9/32", "203.0.113.9/32", "fd00::/8"];
        networks.set_policy(one.place, policy(Mode::Deny, &ranges)).await.unwrap();
        world.round_trip(&one, "allowed");
        one.say((LAN, PORT), b"allowed");
        assert_eq!(hear(&world.lan).0, "allowed");
        // The host stays closed, whatever a range says.
        networks.set_policy(one.place, policy(Mode::Open, &["0.0.0.0/0"])).await.unwrap();
        for host in HOST {
            one.say((host, PORT), b"evil");
        }
        one.say((two.place.network().gateway(), PORT), b"evil");
        one.say((place(1, 2).address(), PORT), b"evil");
        one.say((LAN, PORT), b"all");
        assert_eq!(hear(&world.lan).0, "all");
        networks.clear_policy(one.place).await.unwrap();
        one.say((LAN, PORT), b"evil");
        world.round_trip(&one, "open");
        world.assert_quiet();
        assert!(networks.drift().await.unwrap().is_empty());
        networks.close().await.unwrap();
    });
}

#[test]
fn a_policy_counts_for_connections_that_there_are() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        world.round_trip(&one, "open");
        networks.set_policy(one.place, policy(Mode::Deny, &[])).await.unwrap();
        one.say((INTERNET, PORT), b"evil");
        world.round_trip(&two, "marker");
        world.assert_quiet();
        networks.close().await.unwrap();
    });
}

#[test]
fn an_allow_list_leads_tcp_to_the_proxy() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let one = guest(&networks, 0, 2).await;
        let everywhere = SocketAddrV4::new([0, 0, 0, 0].into(), PROXY_PORT);
        let proxy = networks.bind_tcp(everywhere).await.unwrap();
        networks.set_policy(one.place, policy(Mode::Allowlist, &["203.0.113.8/32"])).await.unwrap();
        one.syn((INTERNET, 443), 5001);
        assert!(one.accepted((INTERNET, 443), 5001), "by the proxy, in the internet's name");
        let (_connection, peer) = proxy.accept().await.unwrap();
        assert_eq!(peer, (one.place.address(), 5001).into());
        // What is private is no matter for the proxy, and neither is anything but TCP.
        one.syn((LAN, 443), 5002);
        one.say((INTERNET, PORT), b"evil");
        one.syn((INTERNET, 444), 5003);
        assert!(one.accepted((INTERNET, 444), 5003));
        // What is allowed by its range goes there, where nobody listens on this port.
        networks.set_policy(one.place, policy(Mode::Allowlist, &["203.0.113.9/32"])).await.unwrap();
        one.syn((INTERNET, 445), 5004);
        assert!(!one.accepted((INTERNET, 445), 5004));
        world.round_trip(&one, "allowed");
        world.assert_quiet();
        networks.close().await.unwrap();
    });
}

#[test]
fn the_proxy_itself_does_not_reach_what_is_private() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let socket = networks.bind_udp(SocketAddrV4::new([0, 0, 0, 0].into(), 0)).await.unwrap();
        assert!(socket.send_to(b"evil", (LAN, PORT)).await.is_err());
        assert!(socket.send_to(b"evil", (HOST[1], PORT)).await.is_err());
        socket.send_to(b"evil", (HOST[0], PORT)).await.unwrap();
        socket.send_to(b"hello", (INTERNET, PORT)).await.unwrap();
        assert_eq!(hear(&world.internet).0, "hello");
        world.assert_quiet();
        networks.close().await.unwrap();
    });
}

#[test]
fn what_is_over_a_cap_is_dropped_in_both_directions() {
    on_a_host(|| async {
        const SENT: usize = 400;
        let networks = networks("a", Uplink::None).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        let capped = |bytes_per_second, packets_per_second| Policy {
            caps: Caps { bytes_per_second, packets_per_second },
            ..Policy::default()
        };
        let arrived = |payload: &[u8]| {
            let (mut arrived, mut frames) = (0, 0);
            while frames < SENT {
                // In parts, because an interface holds only so many frames.
                for _ in 0..50 {
                    one.send(&one.bridged(&two, payload).frame());
                    frames += 1;
                }
                while let Some(frame) = two.receive(std::time::Instant::now()) {
                    arrived += usize::from(has(&frame, b"load"));
                }
            }
            arrived
        };
        let load = [&b"load"[..], &[0; 1400]].concat();
        assert_eq!(arrived(&load), SENT);
        for (capped_place, bytes, packets) in [
            (one.place, None, Some(1)),
            (two.place, None, Some(1)),
            (one.place, Some(1000), None),
            (two.place, Some(2000), Some(10_000_000)),
        ] {
            networks.set_policy(capped_place, capped(bytes, packets)).await.unwrap();
            let some = arrived(&load);
            assert!((10..SENT - 100).contains(&some), "{some} of {bytes:?} {packets:?}");
            // Another rate, and none.
            networks.set_policy(capped_place, capped(Some(u32::MAX), None)).await.unwrap();
            assert_eq!(arrived(&load), SENT);
            assert!(networks.drift().await.unwrap().is_empty());
            networks.clear_policy(capped_place).await.unwrap();
            assert_eq!(arrived(&load), SENT);
        }
    });
}

#[test]
fn one_guest_does_not_fill_the_table_of_connections() {
    on_a_host(|| async {
        const MOST: u16 = 4096;
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        // Ports below 1024 are translated to such, of which there are few.
        for source_port in (1024..).take(MOST.into()) {
            one.send(&Datagram { source_port, ..one.routed((INTERNET, 9), b"one more") }.frame());
        }
        one.say((INTERNET, PORT), b"evil");
        world.round_trip(&two, "marker");
        world.assert_quiet();
        assert!(networks.drift().await.unwrap().is_empty());
        networks.close().await.unwrap();
    });
}
