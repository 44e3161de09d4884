use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    address::Pool,
    fabric::{Uplink, settings::Settings},
    policy::Egress,
};

fn place(user: u16, host: u16) -> Place {
    Pool::default().user(user).place(host).unwrap()
}

fn settings() -> Settings {
    let (pool, forbidden) = (Pool::default(), Vec::new());
    let (tag, uplink, tracked) = ("a".into(), Uplink::None, None);
    Settings { tag, pool, uplink, proxy_port: 3129, forbidden, tracked }
}

#[test]
fn a_policy_is_said_in_full() {
    let cidrs =
        ["192.168.1.7/24", "192.168.1.9/32", "fd00::/8"].map(|range| range.parse().unwrap());
    let egress = Egress { mode: Mode::Allowlist, cidrs: cidrs.to_vec(), ..Egress::default() };
    let caps = Caps { bytes_per_second: Some(125_000), packets_per_second: Some(2000) };
    let items = policy_items(place(5, 17), &Policy { egress, caps });
    let added = change(&Items::default(), &items);
    assert_eq!(
        added,
        "add limit bridge bhatti from_5_17_b125000 { rate over 125000 bytes/second burst 262144 bytes; }
add limit bridge bhatti from_5_17_p2000 { rate over 2000/second burst 200 packets; }
add limit bridge bhatti to_5_17_b125000 { rate over 125000 bytes/second burst 262144 bytes; }
add limit bridge bhatti to_5_17_p2000 { rate over 2000/second burst 200 packets; }
add element bridge bhatti from_bytes { \"bt5-17\" : \"from_5_17_b125000\" }
add element bridge bhatti from_packets { \"bt5-17\" : \"from_5_17_p2000\" }
add element bridge bhatti to_bytes { \"bt5-17\" : \"to_5_17_b125000\" }
add element bridge bhatti to_packets { \"bt5-17\" : \"to_5_17_p2000\" }
add element inet bhatti allowed { 10.208.20.17 . 192.168.1.0/24 }
add element inet bhatti inspected { 10.208.20.17 }
add element inet bhatti ranged { 10.208.20.17 }
add element inet bhatti restricted { 10.208.20.17 }
"
    );
    let denied = Egress { mode: Mode::Deny, ..Egress::default() };
    let denied = policy_items(place(5, 17), &Policy { egress: denied, caps });
    assert_eq!(
        change(&items, &denied),
        "add element inet bhatti allowed { 10.208.20.17 . 192.168.1.0/24 }
add element inet bhatti inspected { 10.208.20.17 }
add element inet bhatti ranged { 10.208.20.17 }
delete element inet bhatti allowed { 10.208.20.17 . 192.168.1.0/24 }
delete element inet bhatti inspected { 10.208.20.17 }
delete element inet bhatti ranged { 10.208.20.17 }
"
    );
}

#[test]
fn the_default_policy_costs_nothing() {
    assert_eq!(policy_items(place(0, 2), &Policy::default()), Items::default());
    assert_eq!(change(&Items::default(), &Items::default()), "");
}

#[test]
fn a_removed_network_leaves_nothing_of_itself_and_all_of_others() {
    let mut plan = Plan::new(settings(), Known::default());
    let denied = Egress { mode: Mode::Deny, ..Egress::default() };
    let denied = Policy { egress: denied, caps: Caps::default() };
    for user in [4, 5, 6] {
        plan.networks.insert(user, Pool::default().user(user));
        plan.set(place(user, 2), denied.clone());
        plan.set(place(user, 1022), denied.clone());
    }
    let all = plan.items();
    let gone = plan.remove(Pool::default().user(5));
    let left = plan.items();
    assert_eq!((left.elements.len(), gone.elements.len()), (2 * 1024, 1024));
    assert_eq!(left.elements.union(&gone.elements).cloned().collect::<BTreeSet<_>>(), all.elements);
}

fn policy() -> impl Strategy<Value = Policy> {
    let mode = prop_oneof![Just(Mode::Open), Just(Mode::Deny), Just(Mode::Allowlist)];
    let range = (any::<u32>(), 0_u8..=32)
        .prop_map(|(address, prefix)| IpNet::V4(Ipv4Net::new_assert(address.into(), prefix)));
    let caps = (any::<Option<u32>>(), any::<Option<u32>>());
    (mode, proptest::collection::vec(range, 0..8), caps).prop_map(|(mode, cidrs, caps)| Policy {
        egress: Egress { mode, cidrs, ..Egress::default() },
        caps: Caps { bytes_per_second: caps.0, packets_per_second: caps.1 },
    })
}

proptest! {
    #[test]
    fn a_change_and_its_opposite_leave_no_trace(old in policy(), new in policy()) {
        let (old, new) = (policy_items(place(1, 9), &old), policy_items(place(1, 9), &new));
        let (there, back) = (change(&old, &new), change(&new, &old));
        prop_assert_eq!(there.is_empty(), old == new);
        let count = |script: &str, verb: &str| {
            script.lines().filter(|line| line.starts_with(verb)).count()
        };
        prop_assert_eq!(count(&there, "add limit"), count(&back, "delete limit"));
        prop_assert!(change(&new, &new).is_empty());
    }

    #[test]
    fn what_may_be_reached_is_what_was_said(policy in policy(), address in any::<u32>()) {
        let address = Ipv4Addr::from(address);
        let ranges = v4_ranges(&policy.egress.cidrs);
        let said = policy.egress.cidrs.iter().any(|range| range.contains(&IpAddr::V4(address)));
        // In at most one range: the kernel refuses those that overlap.
        prop_assert_eq!(ranges.iter().filter(|r| r.contains(&address)).count(), usize::from(said));
    }
}
