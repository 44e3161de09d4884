//! Frames that a guest must not be able to send.

use std::net::Ipv4Addr;

use net::fabric::{Networks, Uplink};

use crate::{
    frames::{Datagram, Guest, arp, has},
    rig::{INTERNET, PORT, World, guest, networks, on_a_host},
};

/// Sends what is evil, then what is not, and says what the other guest heard in between.
fn heard_before_marker(from: &Guest, to: &Guest, evil: &[Vec<u8>]) -> usize {
    for frame in evil {
        from.send(frame);
    }
    from.send(&from.bridged(to, b"marker").frame());
    to.until(b"marker").len() - 1
}

async fn two_guests() -> (Networks, Guest, Guest) {
    let networks = networks("a", Uplink::None).await;
    let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
    (networks, one, two)
}

#[test]
fn nobody_speaks_with_an_address_of_somebody_else() {
    on_a_host(|| async {
        let (networks, one, two) = two_guests().await;
        let third = guest(&networks, 0, 4).await;
        let honest = one.bridged(&two, b"evil");
        let gateway = one.place.network();
        let lies = [
            Datagram { source: third.place.address(), ..honest },
            Datagram { source: gateway.gateway(), ..honest },
            Datagram { source: INTERNET, ..honest },
            Datagram { source: Ipv4Addr::UNSPECIFIED, ..honest },
            Datagram { from: third.place.mac().0, ..honest },
            Datagram { from: gateway.gateway_mac().0, ..honest },
            Datagram { from: third.place.mac().0, source: third.place.address(), ..honest },
            // Answers to machines that look for their address.
            Datagram { source_port: 67, source: gateway.gateway(), ..honest },
            Datagram { to: [0xff; 6], source: gateway.gateway(), source_port: 67, ..honest },
        ];
        let frames = lies.map(|lie| lie.frame());
        assert_eq!(heard_before_marker(&one, &two, &frames), 0);
        drop(networks);
    });
}

#[test]
fn nobody_says_to_have_an_address_of_somebody_else() {
    on_a_host(|| async {
        let (networks, one, two) = two_guests().await;
        let network = one.place.network();
        let (mac, own) = (one.place.mac().0, one.place.address());
        let target = two.place.address();
        let lies = [
            arp(mac, 2, (mac, network.gateway()), target),
            arp(mac, 2, (network.gateway_mac().0, network.gateway()), target),
            arp(network.gateway_mac().0, 2, (network.gateway_mac().0, network.gateway()), target),
            arp(mac, 1, (mac, target), target),
            arp(mac, 1, (two.place.mac().0, own), target),
            arp(two.place.mac().0, 1, (mac, own), target),
            arp(mac, 3, (mac, own), target),
        ];
        assert_eq!(heard_before_marker(&one, &two, &lies), 0);
        let honest = arp(mac, 1, (mac, own), target);
        assert_eq!(heard_before_marker(&one, &two, &[honest]), 1);
        drop(networks);
    });
}

#[test]
fn only_ipv4_and_arp_pass() {
    on_a_host(|| async {
        let (networks, one, two) = two_guests().await;
        let (from, to) = (one.place.mac().0, two.place.mac().0);
        let frame = |kind: [u8; 2], rest: &[u8]| [&to[..], &from[..], &kind[..], rest].concat();
        let ipv4 = one.bridged(&two, b"evil").frame();
        let mut ipv6 = Vec::new();
        etherparse::PacketBuilder::ethernet2(from, [0x33, 0x33, 0, 0, 0, 1])
            .ipv6([0xfe; 16], [0xff; 16], 255)
            .udp(1, 2)
            .write(&mut ipv6, b"evil")
            .unwrap();
        let lies = [
            ipv6,
            frame([0x86, 0xdd], &[0x60; 60]),
            // Tagged, once and twice, with an honest packet inside.
            frame([0x81, 0], &[&[0, 5][..], &ipv4[12..]].concat()),
            frame([0x88, 0xa8], &[&[0, 5, 0x81, 0, 0, 5][..], &ipv4[12..]].concat()),
            frame([0x81, 0], &[&[0, 0][..], &ipv4[12..]].concat()),
            // PPPoE, LLDP, jumbo, length instead of type as spanning trees have it.
            frame([0x88, 0x64], &[0x11; 60]),
            frame([0x88, 0xcc], &[0x11; 60]),
            frame([0x88, 0x70], &[0x11; 60]),
            frame([0, 40], &[0x42; 60]),
            [&[1, 0x80, 0xc2, 0, 0, 0][..], &from, &[0, 40], &[0x42; 60]].concat(),
            [&[1, 0x80, 0xc2, 0, 0, 0x0e][..], &from, &[0x88, 0xcc], &[0x11; 60]].concat(),
            // Too short to be a packet, and IPv6 that says to be IPv4.
            frame([8, 0], &[0x45]),
            frame([8, 0], &[0x60; 60]),
        ];
        assert_eq!(heard_before_marker(&one, &two, &lies), 0);
        assert!(!networks.inside(ipv6_is_there).await.unwrap());
    });
}

fn ipv6_is_there() -> std::io::Result<bool> {
    match fs_err::read_to_string("/proc/thread-self/net/if_inet6") {
        Ok(addresses) => Ok(!addresses.is_empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[test]
fn nobody_takes_a_neighbours_frames_by_a_frame_to_a_link_local_group() {
    on_a_host(|| async {
        let (networks, one, two) = two_guests().await;
        let third = guest(&networks, 0, 4).await;
        two.send(&two.bridged(&third, b"here I am").frame());
        third.until(b"here I am");
        // The bridge would learn from this where the second guest is.
        let lie = [&[1, 0x80, 0xc2, 0, 0, 0x0e][..], &two.place.mac().0, &[0x88, 0xcc], &[0; 60]];
        one.send(&lie.concat());
        third.send(&third.bridged(&two, b"for two").frame());
        two.until(b"for two");
        third.send(&third.bridged(&one, b"marker").frame());
        assert!(!one.until(b"marker").iter().any(|frame| has(frame, b"for two")));
    });
}

#[test]
fn what_lies_does_not_reach_the_internet() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, other) = (guest(&networks, 0, 2).await, guest(&networks, 1, 2).await);
        let honest = one.routed((INTERNET, PORT), b"evil");
        for lie in [
            Datagram { source: other.place.address(), ..honest },
            Datagram { source: INTERNET, ..honest },
            Datagram { from: other.place.mac().0, ..honest },
        ] {
            one.send(&lie.frame());
        }
        world.round_trip(&one, "marker");
        world.assert_quiet();
        networks.close().await.unwrap();
    });
}
