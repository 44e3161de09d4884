//! Making our namespace what the plan says, and comparing it.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::PoisonError,
};

use ipnet::Ipv4Net;

use super::{
    NetError, Networks, State, Uplink,
    findings::{Finding, Problem},
    links::Seen,
    listing::{self, WHOLE},
    nft,
    plan::{Plan, UPLINK},
    ranges, rules, sysctl, uplink,
};
use crate::address::{Place, UserNetwork};

impl Networks {
    /// Makes everything so. What is so already is left alone, but for the tables, which are
    /// replaced in one go.
    pub(super) async fn ensure(&self, state: &mut State) -> Result<(), NetError> {
        sysctl::ensure(&self.own, &sysctl::OWN).await?;
        if state.plan.settings.uplink == Uplink::Host {
            self.choose_uplink(&mut state.plan).await?;
            if state.plan.closed.is_none() {
                state.plan.closed = Some(self.host.closed(&state.plan.settings).await?);
            }
        }
        self.apply(state, String::new()).await?;
        let seen = self.links.all().await?;
        for link in seen.iter().filter(|link| foreign(&state.plan, link)) {
            self.links.remove(link).await?;
        }
        for network in state.plan.networks.values() {
            self.ensure_bridge(*network).await?;
        }
        self.reconnect(&state.plan).await?;
        match state.plan.uplink {
            // An earlier daemon may have had one.
            None if self.host.has_any(&state.plan.settings).await? => {
                self.host.close(&state.plan.settings).await
            }
            None => Ok(()),
            Some(range) => {
                let own = (&self.own, &self.links);
                self.host.ensure(&state.plan, range, own).await
            }
        }
    }

    /// Keeps the range of the link that is there, or takes a free one.
    async fn choose_uplink(&self, plan: &mut Plan) -> Result<(), NetError> {
        if plan.uplink.is_none() {
            plan.uplink = self.host.existing(&plan.settings, &self.links).await?;
        }
        if plan.uplink.is_none() {
            let used = self.host.used(None).await?;
            let seed = BuildHasherDefault::<DefaultHasher>::default().hash_one(&plan.settings.tag);
            let range = ranges::uplink(&used, plan.settings.pool, seed);
            plan.uplink = Some(range.ok_or(NetError::NoRange)?);
        }
        Ok(())
    }

    /// Applies a change, or everything if it is not known what the last change came to.
    pub(super) async fn apply(&self, state: &mut State, change: String) -> Result<(), NetError> {
        let script = if state.uncertain { rules::namespace(&state.plan) } else { change };
        if script.is_empty() {
            return Ok(());
        }
        state.uncertain = true;
        nft::apply(&self.own, script).await?;
        state.uncertain = false;
        Ok(())
    }

    pub(super) async fn ensure_bridge(&self, network: UserNetwork) -> Result<(), NetError> {
        let (name, mac) = (network.bridge(), network.gateway_mac());
        let find = |seen: Vec<Seen>| seen.into_iter().find(|link| link.name == name);
        let mut link = find(self.links.all().await?);
        if link.is_none() {
            self.links.add_bridge(&name, mac).await?;
            link = find(self.links.all().await?);
        }
        let Some(link) = link else { return Err(NetError::NoNetwork(network.index())) };
        if !is_bridge_of(&link, network) {
            self.links.reset_bridge(&name, mac).await?;
        }
        self.links.only_address(&link, gateway(network)).await?;
        let mut bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        bridges.insert(network.index(), link.index);
        Ok(())
    }

    pub(super) async fn remove_bridge(&self, network: UserNetwork) -> Result<(), NetError> {
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner).remove(&network.index());
        let seen = self.links.all().await?;
        match seen.iter().find(|link| link.name == network.bridge()) {
            Some(link) => self.links.remove(link).await,
            None => Ok(()),
        }
    }

    pub(super) async fn differences(&self, plan: &Plan) -> Result<Vec<Finding>, NetError> {
        let mut findings = self.link_differences(plan).await?;
        let expected = listing::expected(rules::namespace(plan)).await?;
        let actual = listing::actual(&self.own).await?;
        findings.extend(listing::compare(&expected, &actual, |_| true));
        for ((key, wanted), found) in sysctl::differing(&self.own, &sysctl::OWN).await? {
            findings.push(Finding::Sysctl { key, wanted, found });
        }
        if let Some(range) = plan.uplink {
            findings.extend(self.host.drift(plan, range).await?);
        }
        Ok(findings)
    }

    async fn link_differences(&self, plan: &Plan) -> Result<Vec<Finding>, NetError> {
        let seen = self.links.all().await?;
        let named = by_name(&seen);
        let mut findings = Vec::new();
        let mut wrong = |name: &str, problem| {
            findings.push(Finding::Link { name: name.to_owned(), problem });
        };
        for link in &seen {
            if foreign(plan, link) {
                wrong(&link.name, Problem::Foreign);
            } else if let Some(place) = tap_place(plan, &link.name)
                && misconnected(place, link, &named).is_some()
            {
                wrong(&link.name, Problem::Changed);
            }
        }
        let mut addresses = Vec::new();
        for network in plan.networks.values() {
            let name = network.bridge();
            match named.get(name.as_str()) {
                None => wrong(&name, Problem::Missing),
                Some(link) if !is_bridge_of(link, *network) => wrong(&name, Problem::Changed),
                Some(link) if link.addresses != [gateway(*network)] => {
                    addresses.push(Finding::Address { link: name, wanted: gateway(*network) });
                }
                Some(_) => {}
            }
        }
        findings.extend(addresses);
        if let Some(range) = plan.uplink {
            let end = uplink::end(&seen, UPLINK, range.own());
            let routes = self.links.routes().await?;
            let gateway = Some(range.host().addr());
            let out = routes.iter().any(|(to, by)| to.prefix_len() == 0 && *by == gateway);
            findings.extend((end.is_none() && !out).then_some(Finding::DefaultRoute));
            findings.extend(end);
        }
        Ok(findings)
    }

    /// Removes tables of others from our namespace, where nobody else has anything to say.
    pub(super) async fn remove_foreign_tables(&self, findings: &[Finding]) -> Result<(), NetError> {
        let script: String = findings
            .iter()
            .filter_map(|finding| match finding {
                Finding::Rules { table, problem: Problem::Foreign, part } if part == WHOLE => {
                    Some(format!("delete table {table}\n"))
                }
                _ => None,
            })
            .collect();
        if script.is_empty() { Ok(()) } else { nft::apply(&self.own, script).await }
    }

    /// Connects sandboxes that were taken off their bridges, and says again who has which
    /// address, which a bridge that was down or is new does not know.
    async fn reconnect(&self, plan: &Plan) -> Result<(), NetError> {
        let seen = self.links.all().await?;
        let named = by_name(&seen);
        for link in &seen {
            let Some(place) = tap_place(plan, &link.name) else { continue };
            if let Some(bridge) = misconnected(place, link, &named) {
                self.links.change(&link.name, |link| link.controller(bridge).up()).await?;
            }
            let bridge = self.bridge(place.network())?;
            self.links.neighbour(bridge, place.address(), place.mac()).await?;
        }
        for network in plan.networks.values() {
            self.links.settle(self.bridge(*network)?).await?;
        }
        Ok(())
    }
}

fn by_name(seen: &[Seen]) -> BTreeMap<&str, &Seen> {
    seen.iter().map(|link| (link.name.as_str(), link)).collect()
}

fn gateway(network: UserNetwork) -> Ipv4Net {
    Ipv4Net::new_assert(network.gateway(), network.range().prefix_len())
}

/// Whether this is the network's bridge, as it was made.
fn is_bridge_of(link: &Seen, network: UserNetwork) -> bool {
    link.up && link.mac == Some(network.gateway_mac()) && link.bridge == Some(true)
}

/// Whether an interface has nothing to do in our namespace. One that is down does nothing: the
/// kernel puts some into every namespace.
fn foreign(plan: &Plan, link: &Seen) -> bool {
    let bridge = plan.networks.values().any(|network| network.bridge() == link.name);
    let known = match link.name.as_str() {
        "lo" => true,
        UPLINK => plan.uplink.is_some(),
        // Sandboxes of a network that was removed may still run.
        name => (bridge && link.bridge.is_some()) || name.starts_with("bt"),
    };
    !known && (link.up || bridge)
}

/// The bridge that a sandbox should be connected to and is not.
fn misconnected(place: Place, link: &Seen, named: &BTreeMap<&str, &Seen>) -> Option<u32> {
    let bridge = named.get(place.network().bridge().as_str())?.index;
    (link.master != Some(bridge) || !link.up).then_some(bridge)
}

/// Whose interface this is, by its name, if its network is one of ours.
fn tap_place(plan: &Plan, name: &str) -> Option<Place> {
    let (network, host) = name.strip_prefix("bt")?.split_once('-')?;
    plan.networks.get(&network.parse().ok()?)?.place(host.parse().ok()?)
}
