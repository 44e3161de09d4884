//! What a daemon says about its networks.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::NetError;
use crate::{
    address::{Place, Pool, UserNetwork},
    policy::Egress,
};

/// The group that refused connections are logged to.
pub const LOG_REFUSED: u16 = 7;
/// The group that connections which were let through are logged to.
pub const LOG_PASSED: u16 = 8;

/// What all networks of one daemon have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What tells this daemon's interface and rules in the host from those of others: 1 to 8
    /// lower-case letters and digits.
    pub tag: String,
    /// The range that users' networks are taken from.
    pub pool: Pool,
    /// Whether there is a way out.
    pub uplink: Uplink,
    /// The port of the egress proxy, which listens inside the namespace.
    pub proxy_port: u16,
    /// What no sandbox may reach besides the private ranges.
    pub forbidden: Vec<Ipv4Net>,
    /// How many connections the host's kernel can track; it is asked if this is absent.
    pub tracked: Option<u32>,
}

/// Whether there is a way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    /// None, and nothing is made in the host's namespace.
    None,
    /// By way of the host, which routes and translates addresses.
    Host,
}

/// The networks and policies that exist, as the daemon has them written down.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// All users' networks.
    pub networks: Vec<UserNetwork>,
    /// All sandboxes with a policy other than the default.
    pub policies: Vec<(Place, Policy)>,
}

/// What holds for one sandbox's traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Where it may connect to.
    #[serde(default)]
    pub egress: Egress,
    /// How much it may send, and how much it may receive.
    #[serde(default)]
    pub caps: Caps,
}

/// Limits for each direction; what is over them is dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Bytes in a second, Ethernet headers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
    /// Packets in a second. Segments that the guest leaves to the host to cut count as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u32>,
}

impl Caps {
    /// What keeps to both.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        let least = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
        Self {
            bytes_per_second: least(self.bytes_per_second, other.bytes_per_second),
            packets_per_second: least(self.packets_per_second, other.packets_per_second),
        }
    }
}

impl Settings {
    /// With nothing but a name.
    pub(super) fn named(tag: &str) -> Self {
        let (tag, pool, uplink) = (tag.to_owned(), Pool::default(), Uplink::None);
        Self { tag, pool, uplink, proxy_port: 0, forbidden: Vec::new(), tracked: None }
    }

    /// # Errors
    /// [`NetError::Tag`] if the tag cannot be part of a name.
    pub(super) fn checked(self) -> Result<Self, NetError> {
        let fits = (1..=8).contains(&self.tag.len());
        if !fits || !self.tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(NetError::Tag(self.tag));
        }
        Ok(self)
    }

    /// The name of the uplink's end in the host.
    pub(super) fn host_link(&self) -> String {
        format!("bu{}", self.tag)
    }

    /// The name of our table in the host.
    pub(super) fn host_table(&self) -> String {
        format!("bhatti_{}", self.tag)
    }

    /// What marks our rules in chains that others have made for such rules.
    pub(super) fn comment(&self) -> String {
        format!("bhatti {}", self.tag)
    }
}
