//! The addresses of this host, as the kernel lists them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fs_err as fs;

/// Most addresses that a certificate names.
const MOST: usize = 64;

/// What a listener on this address can be reached at, in an order that does not change by itself.
pub(super) fn reached_at(listen: Option<IpAddr>) -> Vec<IpAddr> {
    match listen {
        Some(address) if !address.is_unspecified() => vec![address.to_canonical()],
        Some(_) => of_host(),
        None => Vec::new(),
    }
}

/// All addresses of this host's interfaces but those that mean something on one link only.
fn of_host() -> Vec<IpAddr> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = (v4(&file("/proc/net/fib_trie")), v6(&file("/proc/net/if_inet6")));
    let found: BTreeSet<IpAddr> = v4.into_iter().chain(v6).collect();
    found.into_iter().take(MOST).collect()
}

/// What the routing table calls local, one address each: first the address, then what it is.
fn v4(table: &str) -> Vec<IpAddr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in table.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => last = address.parse::<Ipv4Addr>().ok(),
            None if line == "/32 host LOCAL" => found.extend(last.map(IpAddr::V4)),
            None => {}
        }
    }
    found
}

/// A line is an address in hexadecimal and then more about it.
fn v6(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_ascii_whitespace().next()?;
        let number = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
        Some(Ipv6Addr::from(number)).filter(|address| !address.is_unicast_link_local())
    };
    table.lines().filter_map(address).map(IpAddr::V6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_lists_are_read() {
        let table = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n\
                     \x20    |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n\
                     \x20       /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        let found: Vec<_> = v4(table).iter().map(|address| address.to_string()).collect();
        assert_eq!(found, ["10.0.0.5", "127.0.0.1"]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000000042acfffe110002 02 40 20 80     eth0\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\nnonsense\n";
        let found: Vec<_> = v6(table).iter().map(|address| address.to_string()).collect();
        assert_eq!(found, ["::1", "2001:db8::7"]);
    }

    #[test]
    fn a_listener_on_every_address_is_reached_at_each_and_one_on_one_there() {
        assert!(
            reached_at(Some("0.0.0.0".parse().unwrap())).contains(&"127.0.0.1".parse().unwrap())
        );
        let one = "192.0.2.7".parse().unwrap();
        assert_eq!(reached_at(Some(one)), [one]);
    }
}
