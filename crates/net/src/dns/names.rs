//! What a question is about: something that is answered here, something for the outside, or
//! nothing.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, RecordType,
        rdata::{A, PTR},
    },
};

use crate::{
    address::Place,
    egress::{Directory, is_in_cidrs},
    policy::{Egress, Mode},
};

/// The domain of our names.
const ZONE: &str = "bhatti";
/// The name of a network's gateway in that domain.
const GATEWAY: &str = "gateway";

/// What is to be done with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// This is the answer; without a record it means that there is none of that type.
    Answer(Vec<RData>),
    /// There is no such name, or it is not served.
    Fail(ResponseCode),
    /// The name is not on the list of what this sandbox may ask for.
    Denied,
    /// The outside knows.
    Forward,
    /// The name may be asked for, but nothing of that type is told.
    Empty,
}

/// Decides about a question of the sandbox at `place`.
pub(super) fn route(query: &Query, place: Place, policy: &Egress, directory: &Directory) -> Route {
    let (name, kind) = (query.name(), query.query_type());
    if query.query_class() != DNSClass::IN {
        return Route::Fail(ResponseCode::Refused);
    }
    if matches!(kind, RecordType::ANY | RecordType::AXFR | RecordType::IXFR) {
        return Route::Fail(ResponseCode::NotImp);
    }
    if let Some(route) = local(name, kind, place, policy, directory) {
        return route;
    }
    let host = host_name(name);
    let may_ask = match policy.mode {
        Mode::Open => true,
        Mode::Deny => false,
        Mode::Allowlist => {
            is_plain(name) && policy.hosts.iter().any(|pattern| pattern.matches(&host))
        }
    };
    if !may_ask {
        return Route::Denied;
    }
    match kind {
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => Route::Empty,
        _ => Route::Forward,
    }
}

/// A name as policies and logs have it.
pub(super) fn host_name(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// Whether a name's text has no more dots than the name has parts: others may look as if they were
/// below a domain that they are not below.
fn is_plain(name: &Name) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.iter().all(|label| label.iter().all(plain))
}

/// The answer to what is never asked outside.
fn local(
    name: &Name,
    kind: RecordType,
    place: Place,
    policy: &Egress,
    directory: &Directory,
) -> Option<Route> {
    let labels: Vec<String> =
        name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let sandbox = |name: &str| directory.address_of(place.network(), name);
    let address = |address: Option<Ipv4Addr>| match (address, kind) {
        (Some(address), RecordType::A) => Route::Answer(vec![RData::A(A(address))]),
        (Some(_), _) => Route::Answer(Vec::new()),
        (None, _) => Route::Fail(ResponseCode::NXDomain),
    };
    match labels[..] {
        [.., "localhost"] => Some(address(Some(Ipv4Addr::LOCALHOST))),
        [GATEWAY, ZONE] => Some(address(Some(place.network().gateway()))),
        [name, ZONE] => Some(address(sandbox(name))),
        // The domain itself is there, and has nothing.
        [ZONE] if sandbox(ZONE).is_none() => Some(Route::Answer(Vec::new())),
        [name] => Some(address(sandbox(name))),
        [.., ZONE] => Some(Route::Fail(ResponseCode::NXDomain)),
        [.., "ip6", "arpa"] => Some(Route::Fail(ResponseCode::NXDomain)),
        [.., "in-addr", "arpa"] => reverse(name, kind, place, policy, directory),
        _ => None,
    }
}

/// Names of addresses: those of the own network are known here, and what else is not the internet
/// is nobody's business.
fn reverse(
    name: &Name,
    kind: RecordType,
    place: Place,
    policy: &Egress,
    directory: &Directory,
) -> Option<Route> {
    // What cannot be read may be about any address, and those who know may tell.
    let Ok(net) = name.parse_arpa_name() else {
        return Some(Route::Fail(ResponseCode::NXDomain));
    };
    let IpAddr::V4(address) = net.network() else { return None };
    let network = place.network();
    if net.prefix_len() == 32 && network.range().contains(&address) {
        let host = if address == network.gateway() {
            Some(GATEWAY.to_owned())
        } else {
            directory.pool().find(address).and_then(|place| directory.name_of(place))
        };
        let pointer = host.and_then(|host| Name::from_ascii(format!("{host}.{ZONE}.")).ok());
        return Some(match (pointer, kind) {
            (Some(name), RecordType::PTR) => Route::Answer(vec![RData::PTR(PTR(name))]),
            (Some(_), _) => Route::Answer(Vec::new()),
            (None, _) => Route::Fail(ResponseCode::NXDomain),
        });
    }
    let hidden = directory.forbidden().contains(address) && !is_in_cidrs(policy, address);
    hidden.then_some(Route::Fail(ResponseCode::NXDomain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::Pool;

    fn directory() -> Directory {
        let directory = Directory::new(Pool::default(), &[]);
        directory.set(place(0, 2), "web", Egress::default());
        directory.set(place(0, 3), "DB", Egress::default());
        directory.set(place(1, 2), "other", Egress::default());
        directory
    }

    fn place(user: u16, host: u16) -> Place {
        Pool::default().user(user).place(host).unwrap()
    }

    fn ask_as(name: &str, kind: RecordType, policy: &Egress) -> Route {
        let query = Query::query(Name::from_ascii(name).unwrap(), kind);
        route(&query, place(0, 2), policy, &directory())
    }

    fn ask(name: &str, kind: RecordType) -> Route {
        ask_as(name, kind, &Egress::default())
    }

    fn address(text: &str) -> Route {
        Route::Answer(vec![RData::A(A(text.parse().unwrap()))])
    }

    const NO_SUCH_NAME: Route = Route::Fail(ResponseCode::NXDomain);

    #[test]
    fn the_own_network_is_known_here() {
        assert_eq!(ask("web.", RecordType::A), address("10.208.0.2"));
        assert_eq!(ask("Db.BHATTI.", RecordType::A), address("10.208.0.3"));
        assert_eq!(ask("gateway.bhatti.", RecordType::A), address("10.208.0.1"));
        assert_eq!(ask("db.", RecordType::AAAA), Route::Answer(Vec::new()));
        let name = |text| Route::Answer(vec![RData::PTR(PTR(Name::from_ascii(text).unwrap()))]);
        assert_eq!(ask("3.0.208.10.in-addr.arpa.", RecordType::PTR), name("db.bhatti."));
        assert_eq!(ask("1.0.208.10.in-addr.arpa.", RecordType::PTR), name("gateway.bhatti."));
    }

    #[test]
    fn other_networks_and_what_is_nobodys_do_not_exist_and_are_not_forwarded() {
        for name in ["other.", "other.bhatti.", "nobody.", "a.web.bhatti.", "web.web.bhatti."] {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
                assert_eq!(ask(name, kind), NO_SUCH_NAME, "{name}");
            }
        }
        for name in [
            "2.4.208.10.in-addr.arpa.",
            "9.0.208.10.in-addr.arpa.",
            "1.1.168.192.in-addr.arpa.",
            "254.169.in-addr.arpa.",
            "1.0.0.0.ip6.arpa.",
            "x.1.168.192.in-addr.arpa.",
        ] {
            assert_eq!(ask(name, RecordType::PTR), NO_SUCH_NAME, "{name}");
        }
        assert_eq!(ask("1.1.1.1.in-addr.arpa.", RecordType::PTR), Route::Forward);
    }

    #[test]
    fn the_outside_is_asked_for_what_can_be_used() {
        for kind in [RecordType::A, RecordType::MX, RecordType::TXT, RecordType::SRV] {
            assert_eq!(ask("example.com.", kind), Route::Forward);
        }
        for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB] {
            assert_eq!(ask("example.com.", kind), Route::Empty);
        }
        assert_eq!(ask("example.com.", RecordType::ANY), Route::Fail(ResponseCode::NotImp));
    }

    #[test]
    fn names_that_may_not_be_asked_for_are_denied() {
        let mut policy = Egress {
            mode: Mode::Allowlist,
            hosts: vec!["*.example.com".parse().unwrap()],
            ..Egress::default()
        };
        assert_eq!(ask_as("a.EXAMPLE.com.", RecordType::A, &policy), Route::Forward);
        assert_eq!(ask_as("secret.tunnel.test.", RecordType::TXT, &policy), Route::Denied);
        assert_eq!(ask_as("secret.tunnel.test.", RecordType::AAAA, &policy), Route::Denied);
        assert_eq!(ask_as("1.1.1.1.in-addr.arpa.", RecordType::PTR, &policy), Route::Denied);
        assert_eq!(ask_as("x\\.example.com.", RecordType::A, &policy), Route::Denied);
        policy.mode = Mode::Deny;
        assert_eq!(ask_as("a.example.com.", RecordType::A, &policy), Route::Denied);
        assert_eq!(ask_as("web.", RecordType::A, &policy), address("10.208.0.2"));
    }

    proptest! {
        #[test]
        fn no_name_below_ours_leaves(
            labels in proptest::collection::vec("[a-zA-Z0-9]{1,8}", 0..4), kind: u16,
        ) {
            let text = labels.iter().map(|label| format!("{label}.")).collect::<String>();
            let route = ask(&format!("{text}BhAtTi."), RecordType::from(kind));
            prop_assert!(!matches!(route, Route::Forward | Route::Empty), "{:?}", route);
        }
    }
}
