//! What should be there, as values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use ipnet::{IpNet, Ipv4Net};

use super::settings::{Caps, Known, Policy, Settings};
use crate::{
    address::{FIRST_HOST, LAST_HOST, Mac, Place, UserNetwork},
    policy::Mode,
};

/// Our end of the way out.
pub(super) const UPLINK: &str = "uplink";

/// A pause this long can be made up for by a burst, as a fraction of a second.
const BURST_DIVISOR: u32 = 10;
/// A burst holds some frames of the largest size that a guest hands over.
const LEAST_BURST_BYTES: u32 = 256 * 1024;
/// As above, in packets.
const LEAST_BURST_PACKETS: u32 = 64;

/// Everything that follows from what the daemon says.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) networks: BTreeMap<u16, UserNetwork>,
    pub(super) policies: BTreeMap<(u16, u16), (Place, Policy)>,
    /// The range of the link to the host, if there is one.
    pub(super) uplink: Option<UplinkRange>,
    /// How many connections there may be.
    pub(super) connections: Connections,
    /// The host's interfaces between which nothing was forwarded before we had it forward; not
    /// known before it was looked at.
    pub(super) closed: Option<Vec<String>>,
    /// Whether the kernel can tell a sender that something is refused; packets vanish otherwise.
    pub(super) rejects: bool,
}

/// How many connections there may be at a time, so that sandboxes do not fill the kernel's table
/// of them, which the host's own services need, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    /// Of one sandbox.
    pub(super) sandbox: u32,
    /// Of all sandboxes of one user.
    pub(super) user: u32,
    /// Of all sandboxes, through the host, in one of [`SHARES`] parts by their port: the kernel
    /// looks through all that it counts together.
    pub(super) share: u32,
}

/// A power of two.
pub(super) const SHARES: u32 = 64;
/// Most connections of one sandbox.
const MOST_OF_SANDBOX: u32 = 4096;
/// Most of one user.
const MOST_OF_USER: u32 = 8192;

impl Connections {
    /// What can be had of a table with room for so many: half of it, and of that one user at most
    /// a quarter.
    pub(super) fn of(tracked: u32) -> Self {
        let user = (tracked / 8).clamp(1, MOST_OF_USER);
        let sandbox = MOST_OF_SANDBOX.min(user);
        Self { sandbox, user, share: (tracked / 2 / SHARES).max(1) }
    }
}

/// A range with room for two: the host and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UplinkRange(pub(super) Ipv4Net);

impl UplinkRange {
    /// The host's address there.
    pub(super) fn host(self) -> Ipv4Net {
        self.address(1)
    }

    /// Our address there.
    pub(super) fn own(self) -> Ipv4Net {
        self.address(2)
    }

    fn address(self, number: u32) -> Ipv4Net {
        let address = Ipv4Addr::from(u32::from(self.0.network()) + number);
        Ipv4Net::new_assert(address, self.0.prefix_len())
    }
}

/// A table of ours inside the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// For frames.
    Bridge,
    /// For packets.
    Inet,
}

impl Table {
    /// Its family and its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge bhatti",
            Self::Inet => "inet bhatti",
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) table: Table,
    pub(super) set: &'static str,
    pub(super) text: String,
}

/// What one policy is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Items {
    /// Names of limits in the bridge table, and what they say.
    pub(super) limits: BTreeMap<String, String>,
    pub(super) elements: BTreeSet<Element>,
}

impl Plan {
    pub(super) fn new(settings: Settings, known: Known) -> Self {
        let networks = known.networks.into_iter().map(|n| (n.index(), n)).collect();
        let connections = Connections::of(settings.tracked.unwrap_or_else(tracked));
        let policies = BTreeMap::new();
        let mut plan = Self {
            settings,
            networks,
            policies,
            uplink: None,
            connections,
            closed: None,
            rejects: true,
        };
        for (place, policy) in known.policies {
            plan.set(place, policy);
        }
        plan
    }

    /// The policy of a place.
    pub(super) fn policy(&self, place: Place) -> Policy {
        self.policies.get(&key(place)).map(|(_, policy)| policy.clone()).unwrap_or_default()
    }

    /// Notes a policy; the default is not worth a note.
    pub(super) fn set(&mut self, place: Place, policy: Policy) {
        if policy == Policy::default() {
            self.policies.remove(&key(place));
        } else {
            self.policies.insert(key(place), (place, policy));
        }
    }

    /// Forgets a network and all policies in it, and returns what they were made of.
    pub(super) fn remove(&mut self, network: UserNetwork) -> Items {
        let inside = (network.index(), 0)..=(network.index(), u16::MAX);
        let keys: Vec<_> = self.policies.range(inside).map(|(key, _)| *key).collect();
        let mut gone = Items { elements: network_elements(network), ..Items::default() };
        for (place, policy) in keys.iter().filter_map(|key| self.policies.remove(key)) {
            gone.add(policy_items(place, &policy));
        }
        self.networks.remove(&network.index());
        gone
    }

    /// The items of everything.
    pub(super) fn items(&self) -> Items {
        let mut all = Items::default();
        for network in self.networks.values() {
            all.elements.extend(network_elements(*network));
        }
        for (place, policy) in self.policies.values() {
            all.add(policy_items(*place, policy));
        }
        all
    }
}

impl Items {
    fn add(&mut self, more: Self) {
        self.limits.extend(more.limits);
        self.elements.extend(more.elements);
    }
}

/// How many connections the kernel tracks, in all its tables.
fn tracked() -> u32 {
    const USUAL: u32 = 65_536;
    let text = fs_err::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    text.ok().and_then(|text| text.trim().parse().ok()).filter(|most| *most > 0).unwrap_or(USUAL)
}

fn key(place: Place) -> (u16, u16) {
    (place.network().index(), place.host())
}

/// What makes a network known to the rules: its gateway, and who may say to be whom.
pub(super) fn network_elements(network: UserNetwork) -> BTreeSet<Element> {
    let gateway = format!("\"{}\" . {}", network.bridge(), network.gateway());
    let places = (FIRST_HOST..=LAST_HOST).filter_map(|host| network.place(host));
    places
        .map(|place| {
            let who = sender(&place.tap(), place.mac(), place.address());
            Element { table: Table::Bridge, set: "places", text: who }
        })
        .chain([Element { table: Table::Inet, set: "gateways", text: gateway }])
        .collect()
}

fn sender(tap: &str, mac: Mac, address: Ipv4Addr) -> String {
    format!("\"{tap}\" . {mac} . {address}")
}

/// What a policy is made of; nothing if it is the default.
pub(super) fn policy_items(place: Place, policy: &Policy) -> Items {
    let mut items = cap_items(place, policy.caps);
    let address = place.address();
    let mut add = |set, text| items.elements.insert(Element { table: Table::Inet, set, text });
    if policy.egress.mode != Mode::Open {
        add("restricted", address.to_string());
    }
    if policy.egress.mode == Mode::Allowlist {
        add("inspected", address.to_string());
    }
    let (allowed, outside) = (v4_ranges(&policy.egress.cidrs), v4_ranges(&policy.egress.outside));
    if !allowed.is_empty() || !outside.is_empty() {
        add("ranged", address.to_string());
    }
    for (set, ranges) in [("allowed", allowed), ("outside", outside)] {
        for range in ranges {
            add(set, format!("{address} . {range}"));
        }
    }
    items
}

/// The ranges without those that lie in others, which the kernel's set would refuse. There is no
/// IPv6 in the namespace, so a range of it allows nothing.
fn v4_ranges(ranges: &[IpNet]) -> Vec<Ipv4Net> {
    let v4 = ranges.iter().filter_map(|range| match range {
        IpNet::V4(range) => Some(range.trunc()),
        IpNet::V6(_) => None,
    });
    Ipv4Net::aggregate(&v4.collect())
}

/// A limit cannot be changed, so its name says its rate.
fn cap_items(place: Place, caps: Caps) -> Items {
    let mut items = Items::default();
    let (network, host) = key(place);
    for direction in ["from", "to"] {
        let mut add = |set, letter: char, rate: u32, text: String| {
            let name = format!("{direction}_{network}_{host}_{letter}{rate}");
            let element = format!("\"{}\" : \"{name}\"", place.tap());
            items.limits.insert(name, text);
            items.elements.insert(Element { table: Table::Bridge, set, text: element });
        };
        let sets = if direction == "from" {
            ("from_bytes", "from_packets")
        } else {
            ("to_bytes", "to_packets")
        };
        if let Some(rate) = caps.bytes_per_second {
            let burst = (rate / BURST_DIVISOR).max(LEAST_BURST_BYTES);
            add(sets.0, 'b', rate, format!("rate over {rate} bytes/second burst {burst} bytes"));
        }
        if let Some(rate) = caps.packets_per_second {
            let burst = (rate / BURST_DIVISOR).max(LEAST_BURST_PACKETS);
            add(sets.1, 'p', rate, format!("rate over {rate}/second burst {burst} packets"));
        }
    }
    items
}

/// The commands that lead from one policy of a place to another.
pub(super) fn change(old: &Items, new: &Items) -> String {
    let mut script = String::new();
    let gone = old.elements.difference(&new.elements).cloned().collect();
    remove_elements(&mut script, &gone);
    for (name, _) in old.limits.iter().filter(|(name, _)| !new.limits.contains_key(*name)) {
        let _ = writeln!(script, "delete limit {} {name}", Table::Bridge.name());
    }
    for (name, rate) in new.limits.iter().filter(|(name, _)| !old.limits.contains_key(*name)) {
        let _ = writeln!(script, "add limit {} {name} {{ {rate}; }}", Table::Bridge.name());
    }
    let come = new.elements.difference(&old.elements).cloned().collect();
    add_elements(&mut script, &come);
    script
}

/// The command that adds elements to their sets; they may be there already.
pub(super) fn add_elements(script: &mut String, elements: &BTreeSet<Element>) {
    on_elements(script, "add", elements);
}

/// The command that removes elements; they may be gone already.
pub(super) fn remove_elements(script: &mut String, elements: &BTreeSet<Element>) {
    on_elements(script, "add", elements);
    on_elements(script, "delete", elements);
}

fn on_elements(script: &mut String, verb: &str, elements: &BTreeSet<Element>) {
    let mut sets: BTreeMap<(Table, &str), Vec<&str>> = BTreeMap::new();
    for element in elements {
        sets.entry((element.table, element.set)).or_default().push(&element.text);
    }
    for ((table, set), texts) in sets {
        let table = table.name();
        let _ = writeln!(script, "{verb} element {table} {set} {{ {} }}", texts.join(", "));
    }
}

#[cfg(test)]
mod tests;
