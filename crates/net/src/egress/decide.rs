//! Whether a connection may be: a pure function of what is allowed, what DNS told and what the
//! connection itself says.

use std::{
    fmt,
    net::{IpAddr, SocketAddrV4},
    sync::Arc,
};

use super::forbidden::{Forbidden, is_in_cidrs};
use crate::policy::{Egress, Mode, Reach};

/// What a connection says about where it wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Nothing: the client waits for the server to speak.
    Nothing,
    /// The first bytes are a TLS `ClientHello`, with the name of the server if it has one. With
    /// Encrypted Client Hello that is the outer name, the only one that anybody can see.
    Tls(Option<String>),
    /// The first bytes are the head of an HTTP/1 request, with the host that it is for.
    Http(String),
    /// Something that we do not know.
    Unknown,
}

/// Why something was allowed or denied: a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Allowed: the internet is open.
    Open,
    /// Allowed: the address is in the owner's ranges.
    Cidr,
    /// Allowed: the host that was named is on the list and has this address.
    Host,
    /// Allowed: the address is one of a host on the list, and nothing can be named on this
    /// protocol.
    Bound,
    /// Allowed: a name that may be asked for.
    Name,
    /// Denied: nothing may be reached.
    Closed,
    /// Denied: not the internet, and in none of the owner's ranges.
    Private,
    /// Denied: no host on the list has this address.
    NotBound,
    /// Denied: the host that was named is not on the list.
    HostNotAllowed,
    /// Denied: the host that was named does not have this address.
    HostNotBound,
    /// Denied: no host was named where one has to be.
    Unnamed,
    /// Denied: neither TLS nor HTTP on a port that is for them, or so broken that servers may
    /// read it in different ways.
    Unreadable,
    /// Denied: the head did not come in time.
    HeadTimeout,
    /// Denied: too many connections or questions at once.
    Limit,
    /// Denied: the name led to forbidden addresses only.
    Rebinding,
    /// Denied: the name may not be asked for.
    NameNotAllowed,
    /// Denied: the sandbox's own policy would let it through, its user's does not.
    UserPolicy,
    /// Decided by a packet filter's rule, which says this.
    Rule(Arc<str>),
}

impl Reason {
    /// The code.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Open => "open",
            Self::Cidr => "cidr",
            Self::Host => "host",
            Self::Bound => "bound",
            Self::Name => "name",
            Self::Closed => "closed",
            Self::Private => "private",
            Self::NotBound => "not_bound",
            Self::HostNotAllowed => "host_not_allowed",
            Self::HostNotBound => "host_not_bound",
            Self::Unnamed => "unnamed",
            Self::Unreadable => "unreadable",
            Self::HeadTimeout => "head_timeout",
            Self::Limit => "limit",
            Self::Rebinding => "rebinding",
            Self::NameNotAllowed => "name_not_allowed",
            Self::UserPolicy => "user_policy",
            Self::Rule(rule) => rule,
        }
    }
}

impl Reason {
    /// Whether a wider policy would make it void.
    fn is_of_policy(&self) -> bool {
        match self {
            Self::Closed
            | Self::Private
            | Self::NotBound
            | Self::HostNotAllowed
            | Self::NameNotAllowed => true,
            Self::Rule(rule) => matches!(&**rule, "deny_policy" | "deny_range"),
            _ => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allowed(Reason),
    Denied(Reason),
}

impl Verdict {
    /// Whether it may be.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// Names the user's policy as what denies, where `asked` says that the sandbox's own does not.
    /// What is wrong with a connection itself stays what is wrong.
    pub(crate) fn blame(self, reach: &Reach, asked: impl FnOnce(&Egress) -> bool) -> Self {
        match &self {
            Self::Denied(reason)
                if reason.is_of_policy() && reach.holds != reach.asked && asked(&reach.asked) =>
            {
                Self::Denied(Reason::UserPolicy)
            }
            _ => self,
        }
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Allowed(reason) | Self::Denied(reason) => reason,
        }
    }
}

/// Ports on which a client has to say which host it means.
pub(crate) fn must_name(port: u16) -> bool {
    matches!(port, 80 | 443)
}

/// What can be decided before the connection says anything; none if it has to be heard.
pub fn decide_early(
    policy: &Egress,
    forbidden: &Forbidden,
    destination: SocketAddrV4,
) -> Option<Verdict> {
    let address = *destination.ip();
    if is_in_cidrs(policy, address) {
        return Some(Verdict::Allowed(Reason::Cidr));
    }
    if forbidden.contains(address) {
        return Some(Verdict::Denied(Reason::Private));
    }
    if policy.outside.iter().any(|range| range.contains(&IpAddr::V4(address))) {
        return Some(Verdict::Allowed(Reason::Cidr));
    }
    match policy.mode {
        Mode::Open => Some(Verdict::Allowed(Reason::Open)),
        Mode::Deny => Some(Verdict::Denied(Reason::Closed)),
        Mode::Allowlist => None,
    }
}

/// Whether a connection may be. `bound` are the names that our DNS led to the destination's
/// address.
///
/// A protocol in which no host is named (SSH, a mail server that speaks first, anything unknown)
/// is judged by its address alone, so what shares an address with an allowed host can be reached
/// by it; on ports 80 and 443 it is denied.
///
/// What is said inside TLS cannot be seen: a server that serves an allowed host may serve others to
/// who asks for them there.
pub fn decide(
    policy: &Egress,
    forbidden: &Forbidden,
    bound: &[Arc<str>],
    destination: SocketAddrV4,
    said: &Said,
) -> Verdict {
    if let Some(verdict) = decide_early(policy, forbidden, destination) {
        return verdict;
    }
    let is_allowed = |name: &str| policy.hosts.iter().any(|pattern| pattern.matches(name));
    match said {
        Said::Tls(Some(name)) | Said::Http(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            if !is_allowed(name) {
                Verdict::Denied(Reason::HostNotAllowed)
            } else if bound.iter().any(|bound| bound.eq_ignore_ascii_case(name)) {
                Verdict::Allowed(Reason::Host)
            } else {
                Verdict::Denied(Reason::HostNotBound)
            }
        }
        Said::Tls(None) | Said::Nothing if must_name(destination.port()) => {
            Verdict::Denied(Reason::Unnamed)
        }
        Said::Unknown if must_name(destination.port()) => Verdict::Denied(Reason::Unreadable),
        Said::Tls(None) | Said::Nothing | Said::Unknown => {
            if bound.iter().any(|name| is_allowed(name)) {
                Verdict::Allowed(Reason::Bound)
            } else {
                Verdict::Denied(Reason::NotBound)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::{address::Pool, policy::HostPattern};

    fn policy(hosts: &[&str], cidrs: &[&str]) -> Egress {
        Egress {
            mode: Mode::Allowlist,
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            cidrs: cidrs.iter().map(|range| range.parse().unwrap()).collect(),
            outside: Vec::new(),
        }
    }

    fn forbidden() -> Forbidden {
        Forbidden::new(Pool::default(), &[])
    }

    fn judge(policy: &Egress, bound: &[&str], to: &str, said: &Said) -> Verdict {
        let bound: Vec<Arc<str>> = bound.iter().map(|name| (*name).into()).collect();
        decide(policy, &forbidden(), &bound, to.parse().unwrap(), said)
    }

    fn tls(name: &str) -> Said {
        Said::Tls(Some(name.to_owned()))
    }

    #[test]
    fn a_named_host_has_to_be_on_the_list_and_at_the_address() {
        use Reason::*;
        use Verdict::{Allowed, Denied};
        let policy = policy(&["api.example.com", "*.cdn.example"], &[]);
        let to = "203.0.113.1:443";
        let at = |bound: &[&str], said: &Said| judge(&policy, bound, to, said);
        assert_eq!(at(&["api.example.com"], &tls("API.example.com.")), Allowed(Host));
        assert_eq!(at(&["api.example.com"], &tls("evil.example")), Denied(HostNotAllowed));
        assert_eq!(at(&["api.example.com"], &tls("a.cdn.example")), Denied(HostNotBound));
        assert_eq!(at(&[], &tls("api.example.com")), Denied(HostNotBound));
        assert_eq!(at(&["api.example.com"], &Said::Tls(None)), Denied(Unnamed));
        assert_eq!(at(&["api.example.com"], &Said::Unknown), Denied(Unreadable));
        assert_eq!(
            at(&["api.example.com"], &Said::Http("203.0.113.1".into())),
            Denied(HostNotAllowed)
        );
    }

    #[test]
    fn where_nothing_is_named_the_address_decides_except_on_the_ports_of_the_web() {
        let policy = policy(&["git.example"], &[]);
        for said in [Said::Nothing, Said::Unknown, Said::Tls(None)] {
            let at = |bound: &[&str], to| judge(&policy, bound, to, &said).is_allowed();
            assert!(at(&["git.example"], "203.0.113.1:22"));
            assert!(!at(&["other.example"], "203.0.113.1:22"));
            assert!(!at(&["git.example"], "203.0.113.1:443"));
            assert!(!at(&["git.example"], "203.0.113.1:80"));
        }
    }

    fn any_said() -> impl Strategy<Value = Said> {
        prop_oneof![
            Just(Said::Nothing),
            Just(Said::Unknown),
            Just(Said::Tls(None)),
            "[ab]\\.(good|evil)\\.test".prop_map(|name| Said::Tls(Some(name))),
            "[ab]\\.(good|evil)\\.test".prop_map(Said::Http),
        ]
    }

    fn any_policy() -> impl Strategy<Value = Egress> {
        let mode = prop_oneof![Just(Mode::Open), Just(Mode::Deny), Just(Mode::Allowlist)];
        let hosts = proptest::collection::vec("(\\*|a|b)\\.good\\.test", 0..3);
        let cidrs = proptest::collection::vec((any::<u32>(), 0u8..=32), 0..3);
        (mode, hosts, cidrs).prop_map(|(mode, hosts, cidrs)| Egress {
            mode,
            hosts: hosts.iter().map(|host| host.parse::<HostPattern>().unwrap()).collect(),
            cidrs: cidrs
                .iter()
                .map(|(bits, prefix)| IpNet::new(Ipv4Addr::from(*bits).into(), *prefix).unwrap())
                .collect(),
            outside: Vec::new(),
        })
    }

    proptest! {
        #[test]
        fn nothing_passes_that_should_not(
            policy in any_policy(),
            bound in proptest::collection::vec("[ab]\\.(good|evil)\\.test", 0..3),
            address in prop_oneof![
                any::<u32>().prop_map(Ipv4Addr::from),
                Just(Ipv4Addr::new(169, 254, 169, 254)),
                Just(Ipv4Addr::new(10, 208, 0, 2)),
                Just(Ipv4Addr::new(203, 0, 113, 1)),
            ],
            port in prop_oneof![Just(80), Just(443), any::<u16>()],
            said in any_said(),
        ) {
            let bound: Vec<Arc<str>> = bound.iter().map(|name| name.as_str().into()).collect();
            let to = SocketAddrV4::new(address, port);
            let verdict = decide(&policy, &forbidden(), &bound, to, &said);
            let in_cidrs = is_in_cidrs(&policy, address);
            if in_cidrs {
                prop_assert!(verdict.is_allowed());
            } else if forbidden().contains(address) || policy.mode == Mode::Deny {
                prop_assert!(!verdict.is_allowed());
            } else if policy.mode == Mode::Allowlist && verdict.is_allowed() {
                let allowed = |name: &str| policy.hosts.iter().any(|host| host.matches(name));
                prop_assert!(bound.iter().any(|name| allowed(name)));
                if let Said::Tls(Some(name)) | Said::Http(name) = &said {
                    prop_assert!(allowed(name) && bound.iter().any(|bound| **bound == **name));
                } else {
                    prop_assert!(!must_name(port));
                }
            }
        }

        #[test]
        fn more_on_the_list_never_denies_what_was_allowed(
            policy in any_policy(),
            bound in proptest::collection::vec("[ab]\\.(good|evil)\\.test", 0..3),
            port in prop_oneof![Just(443), any::<u16>()],
            said in any_said(),
        ) {
            let bound: Vec<Arc<str>> = bound.iter().map(|name| name.as_str().into()).collect();
            let to = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), port);
            let before = decide(&policy, &forbidden(), &bound, to, &said);
            let mut wider = policy;
            wider.hosts.push("*.evil.test".parse().unwrap());
            let after = decide(&wider, &forbidden(), &bound, to, &said);
            prop_assert!(!before.is_allowed() || after.is_allowed());
        }
    }
}
