//! Which addresses and interfaces belong to whom, as pure arithmetic.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// Length of the prefix that a user's network has.
pub const USER_PREFIX: u8 = 22;
/// The first host number that a sandbox can have; 1 is the gateway.
pub const FIRST_HOST: u16 = 2;
/// The last one; the next is the broadcast address.
pub const LAST_HOST: u16 = 1022;
/// The host number of a user network's gateway, which is its DNS server, too.
const GATEWAY: u16 = 1;
/// The first byte of every address of ours: unicast, administered locally.
const MAC_PREFIX: [u8; 2] = [0x02, 0xbb];

/// The range that all users' networks are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool(Ipv4Net);

/// Why a range cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPool {
    /// It has no room for even one user, or for more than can be told apart.
    #[error("{0} cannot be divided into networks of /{USER_PREFIX}: use a /8 to a /{USER_PREFIX}")]
    Size(Ipv4Net),
    /// Addresses that nobody may use so.
    #[error(
        "{0} is not a private range: use a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 \
             or 100.64.0.0/10"
    )]
    Public(Ipv4Net),
}

impl Pool {
    /// # Errors
    /// [`InvalidPool`] if the range is too small, too large or not private.
    pub fn new(range: Ipv4Net) -> Result<Self, InvalidPool> {
        if !(8..=USER_PREFIX).contains(&range.prefix_len()) {
            return Err(InvalidPool::Size(range));
        }
        let range = range.trunc();
        let private = [
            Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
            Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
            Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
            Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
        ];
        if !private.iter().any(|whole| whole.contains(&range)) {
            return Err(InvalidPool::Public(range));
        }
        Ok(Self(range))
    }

    /// The whole range.
    pub fn range(self) -> Ipv4Net {
        self.0
    }

    /// How many users it has room for.
    pub fn users(self) -> u32 {
        1 << (USER_PREFIX - self.0.prefix_len())
    }

    /// The network of the user with this index.
    ///
    /// # Panics
    /// If the pool has no such index.
    pub fn user(self, index: u16) -> UserNetwork {
        assert!(u32::from(index) < self.users(), "a user's index is below `Pool::users`");
        let first = u32::from(self.0.network()) + (u32::from(index) << (32 - USER_PREFIX));
        UserNetwork { index, range: Ipv4Net::new_assert(Ipv4Addr::from(first), USER_PREFIX) }
    }

    /// Whose address this is, if it can be a sandbox's.
    pub fn find(self, address: Ipv4Addr) -> Option<Place> {
        if !self.0.contains(&address) {
            return None;
        }
        let offset = u32::from(address) - u32::from(self.0.network());
        let host = u16::try_from(offset & ((1 << (32 - USER_PREFIX)) - 1)).ok()?;
        let network = self.user(u16::try_from(offset >> (32 - USER_PREFIX)).ok()?);
        network.place(host)
    }
}

impl Default for Pool {
    /// A range that is seldom used elsewhere, with room for 1024 users.
    fn default() -> Self {
        Self(Ipv4Net::new_assert(Ipv4Addr::new(10, 208, 0, 0), 12))
    }
}

/// One user's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserNetwork {
    index: u16,
    range: Ipv4Net,
}

impl UserNetwork {
    /// The number that everything about it follows from.
    pub fn index(self) -> u16 {
        self.index
    }

    /// All its addresses.
    pub fn range(self) -> Ipv4Net {
        self.range
    }

    /// The gateway's and the name server's address.
    pub fn gateway(self) -> Ipv4Addr {
        self.address(GATEWAY)
    }

    /// The bridge's name in our namespace.
    pub fn bridge(self) -> String {
        format!("bb{}", self.index)
    }

    /// The gateway's hardware address.
    pub fn gateway_mac(self) -> Mac {
        self.mac(GATEWAY)
    }

    /// The place of the sandbox with this host number, if there is such a number.
    pub fn place(self, host: u16) -> Option<Place> {
        (FIRST_HOST..=LAST_HOST).contains(&host).then_some(Place { network: self, host })
    }

    fn address(self, host: u16) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.range.network()) + u32::from(host))
    }

    fn mac(self, host: u16) -> Mac {
        let [a, b] = self.index.to_be_bytes();
        let [c, d] = host.to_be_bytes();
        Mac([MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d])
    }
}

/// Where one sandbox is: everything about its interface follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    network: UserNetwork,
    host: u16,
}

impl Place {
    /// The network that it is in.
    pub fn network(self) -> UserNetwork {
        self.network
    }

    /// Its number there.
    pub fn host(self) -> u16 {
        self.host
    }

    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        self.network.address(self.host)
    }

    /// Its hardware address.
    pub fn mac(self) -> Mac {
        self.network.mac(self.host)
    }

    /// The name of its interface in our namespace.
    pub fn tap(self) -> String {
        format!("bt{}-{}", self.network.index, self.host)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_cannot_be_used_are_refused() {
        let pool = |text: &str| Pool::new(text.parse().unwrap());
        assert!(matches!(pool("10.0.0.0/23"), Err(InvalidPool::Size(_))));
        assert!(matches!(pool("10.0.0.0/7"), Err(InvalidPool::Size(_))));
        assert!(matches!(pool("172.16.0.0/11"), Err(InvalidPool::Public(_))));
        assert!(matches!(pool("8.8.0.0/16"), Err(InvalidPool::Public(_))));
        assert_eq!(pool("10.9.200.7/16").unwrap().range().to_string(), "10.9.0.0/16");
        assert_eq!(pool("192.168.4.0/22").unwrap().users(), 1);
    }

    #[test]
    fn a_place_is_said_in_full() {
        let place = Pool::default().user(1023).place(1022).unwrap();
        assert_eq!(place.address().to_string(), "10.223.255.254");
        assert_eq!(place.mac().to_string(), "02:bb:03:ff:03:fe");
        assert_eq!(place.tap(), "bt1023-1022");
        assert_eq!(place.network().gateway().to_string(), "10.223.252.1");
    }

    proptest! {
        #[test]
        fn an_address_says_whose_it_is(index in 0u16..1024, host in any::<u16>()) {
            let network = Pool::default().user(index);
            match network.place(host) {
                Some(place) => {
                    prop_assert!(network.range().hosts().any(|a| a == place.address()));
                    prop_assert_ne!(place.address(), network.gateway());
                    prop_assert_eq!(Pool::default().find(place.address()), Some(place));
                    prop_assert!(place.tap().len() <= 15 && network.bridge().len() <= 15);
                }
                None => prop_assert!(!(2..=1022).contains(&host)),
            }
        }

        #[test]
        fn no_two_places_have_anything_in_common(
            places in proptest::collection::hash_set((0u16..1024, 2u16..=1022), 2..40),
        ) {
            let places: Vec<Place> = places.iter()
                .filter_map(|(index, host)| Pool::default().user(*index).place(*host))
                .collect();
            let distinct = |of: fn(&Place) -> String| {
                places.iter().map(of).collect::<HashSet<String>>().len() == places.len()
            };
            prop_assert!(distinct(|place| place.address().to_string()));
            prop_assert!(distinct(|place| place.mac().to_string()));
            prop_assert!(distinct(|place| place.tap()));
        }
    }
}
