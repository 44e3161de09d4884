//! Which ranges are free.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::plan::UplinkRange;
use crate::address::Pool;

/// A route to more than this much of all addresses is a way to the internet, such as the two
/// halves of it that some VPNs set, and no network that could be in the way.
const WIDEST_NETWORK: u8 = 8;
/// Length of the prefix of the link between host and us.
const LINK_PREFIX: u8 = 30;
/// Where the link's range is looked for, the least used first.
const CANDIDATES: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(100, 127, 0, 0), 16),
    (Ipv4Addr::new(10, 255, 0, 0), 16),
    (Ipv4Addr::new(172, 31, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Whether the network of a user with this index overlaps nothing that the host uses.
pub fn usable(pool: Pool, used: &[Ipv4Net]) -> impl Fn(u16) -> bool + use<> {
    let used = networks(used);
    move |index| {
        u32::from(index) < pool.users()
            && !used.iter().any(|u| overlap(*u, pool.user(index).range()))
    }
}

/// A range for the link to the host. `seed` spreads daemons, so that two that start at the same
/// time do not take the same one.
pub(super) fn uplink(used: &[Ipv4Net], pool: Pool, seed: u64) -> Option<UplinkRange> {
    let mut used = networks(used);
    used.push(pool.range());
    CANDIDATES.iter().find_map(|(network, prefix)| {
        let count = 1_u64 << (LINK_PREFIX - prefix);
        let numbers = (0..count).map(|i| (seed % count + i) % count);
        let ranges = numbers.filter_map(|i| {
            let first = u32::from(*network) + (u32::try_from(i).ok()? << (32 - LINK_PREFIX));
            Ipv4Net::new(Ipv4Addr::from(first), LINK_PREFIX).ok()
        });
        let mut free = ranges.filter(|range| !used.iter().any(|u| overlap(*u, *range)));
        free.next().map(UplinkRange)
    })
}

/// What of `used` are networks, without the ways to everywhere.
pub(super) fn networks(used: &[Ipv4Net]) -> Vec<Ipv4Net> {
    used.iter().copied().filter(|range| range.prefix_len() >= WIDEST_NETWORK).collect()
}

/// Whether two ranges have an address in common.
pub(super) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = Ipv4Net> {
        (any::<u32>(), 0_u8..=32).prop_map(|(a, p)| Ipv4Net::new_assert(a.into(), p).trunc())
    }

    #[test]
    fn a_default_route_takes_nothing_and_a_lan_takes_its_part() {
        let used: Vec<Ipv4Net> =
            ["0.0.0.0/0", "128.0.0.0/1", "10.208.4.0/24"].map(|r| r.parse().unwrap()).to_vec();
        let usable = usable(Pool::default(), &used);
        assert!(usable(0) && !usable(1) && usable(2) && usable(1023) && !usable(1024));
        let all = [Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)];
        assert!(!super::usable(Pool::default(), &all)(7));
        let link = uplink(&all, Pool::default(), 3).unwrap();
        assert_eq!(link.0.to_string(), "100.127.0.12/30");
        assert_eq!(link.host().to_string(), "100.127.0.13/30");
        assert_eq!(link.own().to_string(), "100.127.0.14/30");
    }

    proptest! {
        #[test]
        fn the_link_to_the_host_is_in_nobodys_way(
            used in proptest::collection::vec(range(), 0..12), seed in any::<u64>(),
        ) {
            if let Some(link) = uplink(&used, Pool::default(), seed) {
                prop_assert!(link.0.network().is_private() || link.0.network().octets()[0] == 100);
                prop_assert!(!overlap(link.0, Pool::default().range()));
                for used in networks(&used) {
                    prop_assert!(!overlap(link.0, used), "{used}");
                }
            }
        }

        #[test]
        fn a_users_network_is_in_nobodys_way(
            used in proptest::collection::vec(range(), 0..12), index in 0_u16..1024,
        ) {
            let free = usable(Pool::default(), &used)(index);
            let mine = Pool::default().user(index).range();
            let taken = networks(&used).iter().any(|used| {
                used.network() <= mine.broadcast() && mine.network() <= used.broadcast()
            });
            prop_assert_eq!(free, !taken);
        }
    }
}
