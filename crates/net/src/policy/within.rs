//! What is left of a policy within another one.
//!
//! ```text
//! what a sandbox asked for ─┐
//! or its user's default ────┴─► asked ──┬── within the user's ceiling ──► holds
//!                       an admin's word ┘
//! ```

use ipnet::IpNet;

use super::{Egress, HostPattern, Mode, Reach};

/// Who said what about one sandbox.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'a> {
    /// The sandbox's own policy, if it has one.
    pub own: Option<&'a Egress>,
    /// What its user's sandboxes get that have none; an admin's word.
    pub default: Option<&'a Egress>,
    /// What none of its user's sandboxes exceeds; an admin's word.
    pub ceiling: Option<&'a Egress>,
    /// Whether its user is an admin, whose ranges open what is closed to all.
    pub admin: bool,
}

impl Words<'_> {
    /// What they come to. Ranges of somebody who is no admin open nothing that is closed to all,
    /// unless a ceiling names them, too.
    pub fn reach(self) -> Reach {
        let asked = self.own.or(self.default).cloned().unwrap_or_default();
        let by_admin = self.admin || self.own.is_none();
        match self.ceiling {
            Some(ceiling) => Reach { holds: asked.within(ceiling), asked },
            None if by_admin => asked.into(),
            None => asked.without_opening().into(),
        }
    }
}

impl Egress {
    /// What both allow. A host passes if both lists have it, a range if both have it or one has it
    /// and the other is open; what is a host to one and a range to the other does not.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        let mode = match (self.mode, other.mode) {
            (Mode::Deny, _) | (_, Mode::Deny) => Mode::Deny,
            (Mode::Allowlist, _) | (_, Mode::Allowlist) => Mode::Allowlist,
            (Mode::Open, Mode::Open) => Mode::Open,
        };
        let hosts = match (self.mode, other.mode) {
            (Mode::Open, Mode::Allowlist) => other.hosts.clone(),
            (Mode::Allowlist, Mode::Open) => self.hosts.clone(),
            (Mode::Allowlist, Mode::Allowlist) => common(&self.hosts, &other.hosts, narrower_host),
            _ => Vec::new(),
        };
        let cidrs = common(&self.cidrs, &other.cidrs, narrower_range);
        let mut outside = match (self.mode, other.mode) {
            // All of it is open.
            (Mode::Open, Mode::Open) => Vec::new(),
            (Mode::Open, _) => other.ranges(),
            (_, Mode::Open) => self.ranges(),
            _ => common(&self.ranges(), &other.ranges(), narrower_range),
        };
        outside.retain(|range| !cidrs.iter().any(|opened| opened.contains(range)));
        Self { mode, hosts, cidrs, outside }
    }

    /// The same without a way to what is closed to all.
    #[must_use]
    pub fn without_opening(mut self) -> Self {
        self.outside.append(&mut self.cidrs);
        self
    }

    /// Parts an allow-list into what this policy would let through as well and what not. `closed`
    /// says whether any of a range is closed to all.
    pub fn part(&self, list: Self, closed: impl Fn(IpNet) -> bool) -> (Self, Self) {
        let open = self.mode == Mode::Open;
        let listed = |host: &HostPattern| {
            self.mode == Mode::Allowlist && self.hosts.iter().any(|own| own.covers(host))
        };
        let named = |range: &IpNet| self.ranges().iter().any(|own| own.contains(range));
        let mode = list.mode;
        let (hosts, other_hosts) = list.hosts.into_iter().partition(|host| open || listed(host));
        let (cidrs, other_cidrs) =
            list.cidrs.into_iter().partition(|range| named(range) || (open && !closed(*range)));
        let part = |hosts, cidrs| Self { mode, hosts, cidrs, outside: Vec::new() };
        (part(hosts, cidrs), part(other_hosts, other_cidrs))
    }

    fn ranges(&self) -> Vec<IpNet> {
        self.cidrs.iter().chain(&self.outside).copied().collect()
    }
}

/// What both lists have, each entry once. Two entries have nothing in common or one is part of the
/// other, so there are never more than in both together.
fn common<T: Clone + PartialEq>(
    one: &[T],
    other: &[T],
    narrower: impl Fn(&T, &T) -> Option<T>,
) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    for both in one.iter().flat_map(|a| other.iter().filter_map(|b| narrower(a, b))) {
        if !found.contains(&both) {
            found.push(both);
        }
    }
    found
}

fn narrower_host(one: &HostPattern, other: &HostPattern) -> Option<HostPattern> {
    let narrower = if one.covers(other) { other } else { one };
    (one.covers(other) || other.covers(one)).then(|| narrower.clone())
}

fn narrower_range(one: &IpNet, other: &IpNet) -> Option<IpNet> {
    let narrower = if one.contains(other) { other } else { one };
    (one.contains(other) || other.contains(one)).then(|| narrower.trunc())
}

#[cfg(test)]
mod tests;
