//! Networks that outlive their daemon.

use net::{
    address::Pool,
    fabric::{Known, NetError, Networks, Policy, Uplink},
    policy::{Egress, Mode},
};
use rustix::thread::CapabilitySet;

use crate::{
    frames::Guest,
    rig::{INTERNET, PORT, World, guest, networks, on_a_host, place, settings},
};

fn denied() -> Policy {
    Policy { egress: Egress { mode: Mode::Deny, ..Egress::default() }, ..Policy::default() }
}

fn known() -> Known {
    let networks = vec![Pool::default().user(0), Pool::default().user(1)];
    Known { networks, policies: vec![(place(0, 3), denied())] }
}

#[test]
fn networks_go_on_without_a_daemon_and_are_adopted() {
    on_a_host(|| async {
        let world = World::new().await;
        let first = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&first, 0, 2).await, guest(&first, 0, 3).await);
        first.set_policy(two.place, denied()).await.unwrap();
        world.round_trip(&one, "before");
        // What a VM keeps open.
        let kept = first.namespace().try_clone_to_owned().unwrap();
        drop(first);
        world.round_trip(&one, "between");
        let again = kept.try_clone().unwrap();
        let second =
            Networks::open(settings("a", Uplink::Host), known(), Some(again)).await.unwrap();
        world.round_trip(&one, "after");
        two.say((INTERNET, PORT), b"evil");
        assert!(second.drift().await.unwrap().is_empty());
        // Who ended is back at its place, and who did not is in the way.
        assert!(matches!(second.attach(one.place).await, Err(NetError::Busy(_))));
        drop(one);
        let one = guest(&second, 0, 2).await;
        world.round_trip(&one, "woken");
        one.send(&one.bridged(&two, b"still a neighbour").frame());
        two.until(b"still a neighbour");
        world.assert_quiet();
        second.close().await.unwrap();
    });
}

#[test]
fn a_daemon_whose_namespace_is_gone_begins_anew() {
    on_a_host(|| async {
        let world = World::new().await;
        drop(networks("a", Uplink::Host).await);
        let second = Networks::open(settings("a", Uplink::Host), known(), None).await.unwrap();
        assert!(second.drift().await.unwrap().is_empty());
        world.round_trip(&guest(&second, 0, 2).await, "hello");
        second.close().await.unwrap();
    });
}

#[test]
fn the_namespace_goes_with_the_last_descriptor_and_the_uplink_with_it() {
    on_a_host(|| async {
        let first = networks("a", Uplink::Host).await;
        let tap = first.attach(place(0, 2)).await.unwrap();
        drop(first);
        assert!(fs_err::read_to_string("/proc/thread-self/net/dev").unwrap().contains("bua:"));
        let guest = Guest::new(tap, place(0, 2));
        guest.ping(guest.place.network().gateway());
        guest.until(b"ping");
    });
}

#[test]
fn without_rights_it_is_said_what_is_missing() {
    on_a_host(|| async {
        let mut rights = rustix::thread::capabilities(None).unwrap();
        rights.effective = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, rights).unwrap();
        let refused = Networks::open(settings("a", Uplink::None), Known::default(), None).await;
        assert!(matches!(refused, Err(NetError::Permission(_))), "{refused:?}");
    });
}

#[test]
fn what_cannot_be_is_refused() {
    on_a_host(|| async {
        for tag in ["", "A", "a-b", "123456789"] {
            let opened = Networks::open(settings(tag, Uplink::None), Known::default(), None).await;
            assert!(matches!(opened, Err(NetError::Tag(_))), "{tag}");
        }
        let networks = networks("a", Uplink::None).await;
        let refused = networks.attach(place(7, 2)).await;
        assert!(matches!(refused, Err(NetError::NoNetwork(7))));
        let elsewhere = Pool::new("172.20.0.0/16".parse().unwrap()).unwrap().user(0);
        let refused = networks.add_network(elsewhere).await;
        assert!(matches!(refused, Err(NetError::OutsidePool(_))));
        let nothing = fs_err::File::open("/dev/null").unwrap().into_parts().0.into();
        let opened = Networks::open(settings("a", Uplink::None), known(), Some(nothing)).await;
        assert!(matches!(opened, Err(NetError::Namespace(_))), "{opened:?}");
    });
}
