//! What the rules tell to who listens.

use std::time::Instant;

use net::{
    fabric::{LOG_PASSED, LOG_REFUSED, Networks, Policy, Uplink},
    policy::{Egress, Mode},
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    frames::{PATIENCE, has},
    rig::{INTERNET, LAN, METADATA, PORT, World, guest, networks, on_a_host, place},
};

/// A socket that hears one group of the log.
#[derive(Debug)]
struct Listener(Socket);

impl Listener {
    async fn new(networks: &Networks, group: u16) -> Self {
        let socket = networks.inside(|| Socket::new(NETLINK_NETFILTER)).await.unwrap();
        // To bind to the group, and to be told of a packet after at most 10 ms.
        for attribute in [&[5, 0, 1, 0, 1, 0, 0, 0][..], &[8, 0, 4, 0, 0, 0, 0, 1][..]] {
            let length = u32::try_from(20 + attribute.len()).unwrap();
            let head = [&length.to_ne_bytes()[..], &[1, 4, 1, 0], &[0; 8], &[0, 0]].concat();
            let message = [&head, &group.to_be_bytes()[..], attribute].concat();
            socket.send_to(&message, &SocketAddr::new(0, 0), 0).unwrap();
        }
        Self(socket)
    }

    /// Waits until all of these texts were told.
    fn hears(&self, texts: &[&str]) {
        let until = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while !texts.iter().all(|text| has(&heard, text.as_bytes())) {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap();
            let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
            let some = poll(&mut ready, Some(&left)).unwrap();
            assert_ne!(some, 0, "{texts:?} in {:?}", String::from_utf8_lossy(&heard));
            heard.extend(self.0.recv_from_full().unwrap().0);
        }
    }
}

#[test]
fn what_is_refused_and_what_passes_is_told_with_its_reason() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let refused = Listener::new(&networks, LOG_REFUSED).await;
        let passed = Listener::new(&networks, LOG_PASSED).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        let denied = Egress { mode: Mode::Deny, ..Egress::default() };
        let denied = Policy { egress: denied, ..Policy::default() };
        networks.set_policy(two.place, denied).await.unwrap();
        one.say((LAN, PORT), b"to the LAN");
        one.say((METADATA, PORT), b"to the cloud");
        one.say((place(1, 2).address(), PORT), b"to another user");
        one.say((one.place.network().gateway(), PORT), b"to the host");
        two.say((INTERNET, PORT), b"to nobody");
        refused.hears(&[
            "deny range",
            "to the LAN",
            "to the cloud",
            "deny network",
            "to another user",
            "deny host",
            "to the host",
            "deny policy",
            "to nobody",
        ]);
        world.round_trip(&one, "out");
        passed.hears(&["open", "out"]);
        networks.close().await.unwrap();
    });
}
