//! Addresses that nobody reaches unless an owner's `cidrs` say so.

use std::net::{IpAddr, Ipv4Addr};

pub use base::address::FORBIDDEN;
use ipnet::{IpNet, Ipv4Net};

use crate::{address::Pool, policy::Egress};

/// All that is closed by default.
#[derive(Debug, Clone)]
pub struct Forbidden(Vec<Ipv4Net>);

impl Forbidden {
    /// What is closed everywhere, the sandboxes' own range, and what the operator closed besides.
    pub fn new(pool: Pool, more: &[Ipv4Net]) -> Self {
        let own = std::iter::once(pool.range());
        Self(FORBIDDEN.into_iter().chain(own).chain(more.iter().copied()).collect())
    }

    /// Whether an address is closed.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.iter().any(|range| range.contains(&address))
    }

    /// Whether any address of a range is closed.
    pub fn touches(&self, range: IpNet) -> bool {
        match range {
            IpNet::V4(range) => {
                self.0.iter().any(|closed| closed.contains(&range) || range.contains(closed))
            }
            // There is no way for it.
            IpNet::V6(_) => false,
        }
    }
}

/// Whether the owner has opened this address by a range.
pub fn is_in_cidrs(policy: &Egress, address: Ipv4Addr) -> bool {
    policy.cidrs.iter().any(|range| range.contains(&IpAddr::V4(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_its_lan_and_metadata_are_forbidden() {
        let more = "198.51.100.0/24".parse().unwrap();
        let forbidden = Forbidden::new(Pool::default(), &[more]);
        for address in [
            "198.51.100.1",
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.53",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "224.0.0.251",
            "255.255.255.255",
        ] {
            assert!(forbidden.contains(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "192.0.1.1", "100.63.0.1", "203.0.113.9"] {
            assert!(!forbidden.contains(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_range_is_closed_if_any_of_it_is() {
        let forbidden = Forbidden::new(Pool::default(), &[]);
        for range in ["10.0.0.0/7", "0.0.0.0/0", "192.168.1.0/24", "169.254.169.254/32"] {
            assert!(forbidden.touches(range.parse().unwrap()), "{range}");
        }
        for range in ["203.0.113.0/24", "11.0.0.0/8", "fd00::/8"] {
            assert!(!forbidden.touches(range.parse().unwrap()), "{range}");
        }
    }
}
