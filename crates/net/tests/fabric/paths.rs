//! Where a guest's packets get and where not, with no policy but the default.

use std::net::Ipv4Addr;

use net::fabric::{NetError, Uplink};

use crate::{
    frames::{Guest, arp, has, is_refusal},
    rig::{self, HOST, INTERNET, LAN, METADATA, PORT, World, guest, networks, on_a_host, place},
};

#[test]
fn guests_of_one_user_meet_and_guests_of_two_do_not() {
    on_a_host(|| async {
        let networks = networks("a", Uplink::None).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 1022).await);
        let other = guest(&networks, 1, 2).await;
        one.send(&one.bridged(&other, b"evil").frame());
        one.say((other.place.address(), 4000), b"evil");
        one.ping(other.place.address());
        one.send(&one.bridged(&two, b"hello").frame());
        two.until(b"hello");
        let neighbour = guest(&networks, 1, 3).await;
        neighbour.send(&neighbour.bridged(&other, b"marker").frame());
        let heard = other.until(b"marker");
        assert!(!heard.iter().any(|frame| has(frame, b"evil") || has(frame, b"ping")));
    });
}

#[test]
fn a_spare_interface_reaches_nobody_until_it_has_a_place() {
    on_a_host(|| async {
        let networks = networks("a", Uplink::None).await;
        let (fd, spare) = networks.spare().await.unwrap();
        let own = place(0, 5);
        let one = Guest { fd, place: own };
        let two = guest(&networks, 0, 2).await;
        assert!(networks.repair().await.unwrap().is_empty());
        // The interface is down: the kernel does not even take the frame.
        assert!(one.try_send(&one.bridged(&two, b"evil").frame()).is_err());
        networks.place(spare, own).await.unwrap();
        one.send(&one.bridged(&two, b"hello").frame());
        let heard = two.until(b"hello");
        assert!(!heard.iter().any(|frame| has(frame, b"evil")));
        two.send(&two.bridged(&one, b"welcome").frame());
        one.until(b"welcome");
        assert!(networks.drift().await.unwrap().is_empty());
        // A place has one interface, and who is refused it stays nowhere.
        let (fd, late) = networks.spare().await.unwrap();
        assert!(matches!(networks.place(late, own).await, Err(NetError::Busy(_))));
        let late = Guest { fd, place: own };
        assert!(late.try_send(&late.bridged(&two, b"evil").frame()).is_err());
    });
}

#[test]
fn the_internet_answers_through_two_translations() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let guest = guest(&networks, 0, 2).await;
        world.round_trip(&guest, "hello");
        networks.close().await.unwrap();
    });
}

#[test]
fn nothing_private_is_reached() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let guest = guest(&networks, 0, 2).await;
        let link = rig::link_addresses("bua").await;
        let forbidden = [LAN, METADATA, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST]
            .into_iter()
            .chain(HOST)
            .chain(link)
            .chain([guest.place.network().gateway(), place(1, 2).network().gateway()]);
        for target in forbidden {
            guest.say((target, PORT), b"evil");
            guest.syn((target, PORT), 5000);
            if target != guest.place.network().gateway() {
                guest.ping(target);
            }
        }
        guest.say((INTERNET, PORT), b"marker");
        let (said, from) = rig::hear(&world.internet);
        assert_eq!(said, "marker");
        world.internet.send_to(b"answer", from).unwrap();
        // No reply to a ping came, of anybody; whoever asks is told that it may not.
        let mut heard = guest.until(b"answer");
        heard.pop();
        assert!(!heard.is_empty() && heard.iter().all(|frame| is_refusal(frame)), "{heard:?}");
        world.assert_quiet();
        networks.close().await.unwrap();
    });
}

#[test]
fn nobody_outside_reaches_a_guest() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let guest = guest(&networks, 0, 2).await;
        // The host knows no way to the guests; a neighbour of ours who says there is one is told
        // nothing either.
        let gateway = rig::link_addresses("bua").await[0];
        let own = Ipv4Addr::from(u32::from(gateway) + 1);
        rig::route("10.208.0.0/22".parse().unwrap(), own).await;
        for from in [&world.host, &world.lan] {
            let _ = from.send_to(b"evil", (guest.place.address(), PORT));
            let _ = from.send_to(b"evil", (own, PORT));
        }
        world.round_trip(&guest, "marker");
        world.assert_quiet();
        networks.close().await.unwrap();
    });
}

#[test]
fn the_gateway_answers_pings_and_names_and_nothing_else() {
    on_a_host(|| async {
        let networks = networks("a", Uplink::None).await;
        let guest = guest(&networks, 0, 2).await;
        let gateway = guest.place.network().gateway();
        let everywhere = Ipv4Addr::UNSPECIFIED;
        let names = networks.bind_udp(std::net::SocketAddrV4::new(gateway, 53)).await.unwrap();
        let other = networks.bind_udp(std::net::SocketAddrV4::new(everywhere, 54)).await.unwrap();
        let _tcp = networks.bind_tcp(std::net::SocketAddrV4::new(gateway, 53)).await.unwrap();
        let _ssh = networks.bind_tcp(std::net::SocketAddrV4::new(everywhere, 22)).await.unwrap();
        guest.send(&arp(
            guest.place.mac().0,
            1,
            (guest.place.mac().0, guest.place.address()),
            gateway,
        ));
        guest.until(&guest.place.network().gateway_mac().0);
        guest.say((gateway, 54), b"evil");
        guest.syn((gateway, 22), 5022);
        guest.syn((gateway, rig::PROXY_PORT), 5023);
        guest.say((gateway, 53), b"name?");
        let mut question = [0; 100];
        let (length, from) = names.recv_from(&mut question).await.unwrap();
        assert_eq!(&question[..length], b"name?");
        names.send_to(b"address", from).await.unwrap();
        guest.until(b"address");
        guest.syn((gateway, 53), 5053);
        assert!(guest.accepted((gateway, 53), 5053), "and nobody else had an answer before");
        guest.ping(gateway);
        guest.until(b"ping");
        assert!(other.try_recv(&mut question).is_err());
    });
}

#[test]
fn the_daemon_connects_to_a_guest_without_asking_who_it_is() {
    on_a_host(|| async {
        let networks = networks("a", Uplink::None).await;
        let guest = guest(&networks, 0, 2).await;
        let from = std::net::SocketAddrV4::new(guest.place.network().gateway(), 0);
        let socket = networks.bind_udp(from).await.unwrap();
        socket.send_to(b"hello", (guest.place.address(), 80)).await.unwrap();
        let frames = guest.until(b"hello");
        assert!(frames.iter().all(|frame| frame[12..14] == [8, 0]), "no ARP was needed");
    });
}

#[test]
fn the_daemon_connects_to_the_internet_as_a_guest_would() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let listener =
            world.machines[0].run(|| std::net::TcpListener::bind((INTERNET, 80)).unwrap());
        let _stream = networks.connect(std::net::SocketAddrV4::new(INTERNET, 80)).await.unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), HOST[0]);
        networks.close().await.unwrap();
    });
}

/// Nobody runs this: it holds if it compiles. Every request of the daemon may move to another
/// thread.
#[expect(dead_code, reason = "it holds if it compiles")]
fn what_is_asked_may_move_between_threads(networks: &net::fabric::Networks) {
    fn moves<T: Send>(_: T) {}
    moves(networks.attach(place(0, 2)));
    moves(networks.add_network(place(0, 2).network()));
    moves(networks.remove_network(place(0, 2).network()));
    moves(networks.clear_policy(place(0, 2)));
    moves(networks.repair());
    moves(networks.close());
    let settings = rig::settings("a", Uplink::Host);
    moves(net::fabric::Networks::open(settings, net::fabric::Known::default(), None));
}
