//! Which addresses are not the internet.
//!
//! Sandboxes reach none of [`FORBIDDEN`] unless their owner says so, and whatever connects to a
//! host that a user named asks [`class`] first, with the address that it will connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// What is not the internet, and cloud services that trust whoever can connect to them.
pub const FORBIDDEN: [Ipv4Net; 12] = [
    net([0, 0, 0, 0], 8),
    net([10, 0, 0, 0], 8),
    net([100, 64, 0, 0], 10),
    net([127, 0, 0, 0], 8),
    net([168, 63, 129, 16], 32),
    net([169, 254, 0, 0], 16),
    net([172, 16, 0, 0], 12),
    net([192, 0, 0, 0], 24),
    net([192, 168, 0, 0], 16),
    net([198, 18, 0, 0], 15),
    net([224, 0, 0, 0], 4),
    net([240, 0, 0, 0], 4),
];

/// Of these, the networks in which an operator's own servers may be.
const PRIVATE: [Ipv4Net; 5] = [
    net([10, 0, 0, 0], 8),
    net([100, 64, 0, 0], 10),
    net([172, 16, 0, 0], 12),
    net([192, 168, 0, 0], 16),
    net([198, 18, 0, 0], 15),
];

/// Metadata services in the middle of private networks.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// The part of IPv6 that is handed out to the public.
const GLOBAL: Ipv6Net = net6([0x2000, 0, 0, 0], 3);
/// What of it is not: protocols of their own (Teredo among them), examples, and 6to4, behind
/// which is an IPv4 address of anybody's choice.
const NOT_GLOBAL: [Ipv6Net; 4] = [
    net6([0x2001, 0, 0, 0], 23),
    net6([0x2001, 0xdb8, 0, 0], 32),
    net6([0x2002, 0, 0, 0], 16),
    net6([0x3fff, 0, 0, 0], 20),
];
const UNIQUE_LOCAL: Ipv6Net = net6([0xfc00, 0, 0, 0], 7);
/// Networks that have no IPv4 show every IPv4 address as one of these.
const TRANSLATED: Ipv6Net = net6([0x64, 0xff9b, 0, 0], 96);

const fn net([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn net6([a, b, c, d]: [u16; 4], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// What kind of place an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Somewhere on the internet.
    Public,
    /// A network of the operator's.
    Private,
    /// This host itself.
    Loopback,
    /// What nobody has a reason to connect to on a user's word: metadata services, the local link,
    /// groups, and what is reserved.
    Never,
}

/// What kind of place `address` leads to. An IPv4 address that is dressed as IPv6 is what it is
/// undressed.
pub fn class(address: IpAddr) -> Class {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return Class::Never;
    }
    match address {
        IpAddr::V4(address) if address.is_loopback() => Class::Loopback,
        IpAddr::V4(address) if PRIVATE.iter().any(|net| net.contains(&address)) => Class::Private,
        IpAddr::V4(address) if FORBIDDEN.iter().any(|net| net.contains(&address)) => Class::Never,
        IpAddr::V4(_) => Class::Public,
        IpAddr::V6(address) => class6(address),
    }
}

fn class6(address: Ipv6Addr) -> Class {
    if address.is_loopback() {
        return Class::Loopback;
    }
    if UNIQUE_LOCAL.contains(&address) {
        return Class::Private;
    }
    if TRANSLATED.contains(&address) {
        let [.., a, b, c, d] = address.octets();
        return class(Ipv4Addr::new(a, b, c, d).into());
    }
    if GLOBAL.contains(&address) && !NOT_GLOBAL.iter().any(|net| net.contains(&address)) {
        return Class::Public;
    }
    Class::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Class {
        class(address.parse().unwrap())
    }

    #[test]
    fn addresses_are_what_they_are_however_they_are_dressed() {
        let cases: [(Class, &[&str]); 4] = [
            (
                Class::Public,
                &["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"],
            ),
            (
                Class::Private,
                &[
                    "10.1.2.3",
                    "172.31.255.255",
                    "192.168.1.1",
                    "100.64.0.1",
                    "198.19.0.1",
                    "fd12::1",
                    "::ffff:10.0.0.1",
                    "64:ff9b::a00:1",
                ],
            ),
            (
                Class::Loopback,
                &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],
            ),
            (
                Class::Never,
                &[
                    "0.0.0.0",
                    "100.100.100.200",
                    "::ffff:100.100.100.200",
                    "168.63.129.16",
                    "169.254.169.254",
                    "::ffff:169.254.169.254",
                    "64:ff9b::a9fe:a9fe",
                    "192.0.0.192",
                    "224.0.0.1",
                    "255.255.255.255",
                    "::",
                    "::7f00:1",
                    "64:ff9b:1::1",
                    "100::1",
                    "2001::1",
                    "2001:db8::1",
                    "2002:7f00:1::",
                    "fd00:ec2::254",
                    "fe80::1",
                    "fec0::1",
                    "ff02::1",
                ],
            ),
        ];
        for (expected, addresses) in cases {
            for address in addresses {
                assert_eq!(of(address), expected, "{address}");
            }
        }
    }

    #[test]
    fn nothing_forbidden_is_public() {
        for net in FORBIDDEN {
            for address in [net.network(), net.broadcast()] {
                assert_ne!(class(address.into()), Class::Public, "{address}");
            }
        }
    }
}
