//! The allow-list that would have let everything through that was tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    decide::Reason,
    forbidden::{Forbidden, is_in_cidrs},
    log::{Attempt, Protocol, Target},
};
use crate::policy::{Egress, HostPattern, Mode};

/// So many hosts with one parent are said as all below it.
const SIBLINGS: usize = 4;
/// Parts that a parent has to have, so that it is somebody's and not a registry's.
const PARENT_LABELS: usize = 2;
/// What registries use below a country's domain: nobody's own.
const REGISTRY_LABELS: [&str; 8] = ["ac", "co", "com", "edu", "gov", "net", "or", "org"];

/// A policy that lets all of the attempts through: hosts by name where that is enough, else single
/// addresses. Attempts that no policy can let through, such as names that are none, are left out.
pub fn suggest(attempts: &[Attempt], forbidden: &Forbidden) -> Egress {
    let mut hosts: BTreeMap<String, HostPattern> = BTreeMap::new();
    let mut cidrs = BTreeSet::new();
    for Attempt { target, .. } in attempts {
        if is_closed_for_good(target) {
            continue;
        }
        let pattern = target.host.as_deref().and_then(|host| host.parse::<HostPattern>().ok());
        // A name has to be on the list to be asked for, even if its address is opened by itself.
        if let (Protocol::Dns, Some(pattern)) = (target.protocol, &pattern) {
            hosts.insert(pattern.to_string(), pattern.clone());
        }
        match (by_name(target, forbidden).then_some(pattern).flatten(), target.address) {
            (Some(pattern), _) => {
                hosts.insert(pattern.to_string(), pattern);
            }
            (None, Some(address)) => {
                cidrs.insert(IpNet::from(IpAddr::V4(address)));
            }
            (None, None) => {}
        }
    }
    let hosts = widen(&hosts);
    Egress { mode: Mode::Allowlist, hosts, cidrs: cidrs.into_iter().collect(), outside: Vec::new() }
}

/// Whether no policy opens it: this host, and other users' networks.
fn is_closed_for_good(target: &Target) -> bool {
    matches!(&target.reason, Reason::Rule(rule) if matches!(&**rule, "deny_host" | "deny_network"))
}

/// Whether an allow-list can let this through by the host's name.
fn by_name(target: &Target, forbidden: &Forbidden) -> bool {
    let says_its_host = !matches!(
        target.reason,
        Reason::Private
            | Reason::Unnamed
            | Reason::Unreadable
            | Reason::HeadTimeout
            | Reason::HostNotBound
            | Reason::Rebinding
    );
    let reachable = target.address.is_none_or(|address| !forbidden.contains(address));
    says_its_host && reachable && matches!(target.protocol, Protocol::Dns | Protocol::Tcp)
}

/// Puts `*.parent` in the place of siblings.
fn widen(hosts: &BTreeMap<String, HostPattern>) -> Vec<HostPattern> {
    let mut siblings: BTreeMap<&str, usize> = BTreeMap::new();
    for parent in hosts.keys().filter_map(|name| parent(name)) {
        *siblings.entry(parent).or_default() += 1;
    }
    let wide: BTreeSet<&str> = siblings
        .into_iter()
        .filter(|(_, count)| *count >= SIBLINGS)
        .map(|(name, _)| name)
        .collect();
    let patterns = wide.iter().filter_map(|parent| format!("*.{parent}").parse().ok());
    let single = hosts
        .iter()
        .filter(|(name, _)| parent(name).is_none_or(|parent| !wide.contains(parent)))
        .map(|(_, pattern)| pattern.clone());
    patterns.chain(single).collect()
}

/// What all below may stand for, if that is somebody's own domain.
fn parent(name: &str) -> Option<&str> {
    let (_, parent) = name.split_once('.')?;
    let labels: Vec<&str> = parent.split('.').collect();
    let registry = labels.len() == 2 && REGISTRY_LABELS.contains(&labels[0]);
    (labels.len() >= PARENT_LABELS && !registry).then_some(parent)
}

/// Whether a policy lets an attempt through, as far as its line in the log can tell.
pub fn passes(policy: &Egress, attempt: &Attempt, forbidden: &Forbidden) -> bool {
    let target = &attempt.target;
    let in_cidrs = target.address.is_some_and(|a| is_in_cidrs(policy, a));
    if in_cidrs || policy.mode != Mode::Allowlist {
        return in_cidrs || policy.mode == Mode::Open && by_name(target, forbidden);
    }
    let named = |host: &str| policy.hosts.iter().any(|pattern| pattern.matches(host));
    by_name(target, forbidden) && target.host.as_deref().is_some_and(named)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::address::Pool;

    fn forbidden() -> Forbidden {
        Forbidden::new(Pool::default(), &[])
    }

    fn attempt(host: Option<&str>, address: Option<[u8; 4]>, protocol: Protocol) -> Attempt {
        let target = Target {
            address: address.map(Ipv4Addr::from),
            port: 443,
            protocol,
            host: host.map(Into::into),
            allowed: false,
            reason: Reason::NotBound,
        };
        Attempt { target, first: Duration::ZERO, last: Duration::ZERO, count: 1 }
    }

    fn suggested(attempts: &[Attempt]) -> (Vec<String>, Vec<String>) {
        let Egress { hosts, cidrs, .. } = suggest(attempts, &forbidden());
        let text = |list: &mut dyn Iterator<Item = String>| list.collect::<Vec<_>>();
        (
            text(&mut hosts.iter().map(ToString::to_string)),
            text(&mut cidrs.iter().map(ToString::to_string)),
        )
    }

    #[test]
    fn hosts_are_said_by_name_and_bare_addresses_one_by_one() {
        let attempts = [
            attempt(Some("api.example.com"), None, Protocol::Dns),
            attempt(Some("api.example.com"), Some([203, 0, 113, 1]), Protocol::Tcp),
            attempt(None, Some([203, 0, 113, 2]), Protocol::Tcp),
            attempt(Some("time.example.com"), Some([203, 0, 113, 3]), Protocol::Udp),
            attempt(Some("db.example.com"), Some([10, 0, 0, 5]), Protocol::Tcp),
        ];
        let (hosts, cidrs) = suggested(&attempts);
        assert_eq!(hosts, ["api.example.com"]);
        assert_eq!(cidrs, ["10.0.0.5/32", "203.0.113.2/32", "203.0.113.3/32"]);
    }

    #[test]
    fn siblings_are_said_as_one_unless_their_parent_is_a_registry() {
        let below = |parent: &str| -> Vec<Attempt> {
            ["a", "b", "c", "d"]
                .map(|name| attempt(Some(&format!("{name}.{parent}")), None, Protocol::Dns))
                .to_vec()
        };
        assert_eq!(suggested(&below("cdn.example.com")).0, ["*.cdn.example.com"]);
        assert_eq!(suggested(&below("example.com")).0, ["*.example.com"]);
        assert_eq!(suggested(&below("com")).0.len(), 4);
        assert_eq!(suggested(&below("co.uk")).0.len(), 4);
        assert_eq!(suggested(&below("cdn.example.com")[..3]).0.len(), 3);
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        let host = proptest::option::of("[a-f](\\.[ab]{1,2}){0,3}\\.(com|co\\.uk|test|9)");
        let protocol = prop_oneof![
            Just(Protocol::Tcp),
            Just(Protocol::Udp),
            Just(Protocol::Icmp),
            any::<u8>().prop_map(Protocol::Other),
        ];
        let reason = prop_oneof![
            Just(Reason::NotBound),
            Just(Reason::Open),
            Just(Reason::Private),
            Just(Reason::Unnamed),
            Just(Reason::HostNotAllowed),
            Just(Reason::Rebinding),
            Just(Reason::Rule("deny_host".into())),
            Just(Reason::Rule("deny_range".into())),
        ];
        (host, any::<[u8; 4]>(), protocol, reason).prop_map(|(host, address, protocol, reason)| {
            let mut attempt = attempt(host.as_deref(), Some(address), protocol);
            attempt.target.reason = reason;
            attempt
        })
    }

    proptest! {
        #[test]
        fn what_is_suggested_lets_everything_through(
            mut attempts in proptest::collection::vec(any_attempt(), 0..40),
            names in proptest::collection::vec("[a-f](\\.[ab]){1,3}\\.test", 0..20),
        ) {
            attempts.extend(names.iter().map(|name| attempt(Some(name), None, Protocol::Dns)));
            let policy = suggest(&attempts, &forbidden());
            let possible = |attempt: &&Attempt| !is_closed_for_good(&attempt.target);
            for attempt in attempts.iter().filter(possible) {
                prop_assert!(passes(&policy, attempt, &forbidden()), "{attempt:?} {policy:?}");
            }
        }
    }
}
