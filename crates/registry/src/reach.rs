//! Where a pull may connect to.
//!
//! A user of the API names the registry, and the registry names others: by redirects and by
//! where its tokens come from. So every connection asks here. A name is resolved once, all of its
//! addresses are judged, and the connection goes to one of exactly these addresses; a name that
//! means something else a moment later changes nothing.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use base::address::{Class, class};
use url::{Host, Url};

use crate::Error;

/// Which registries may be talked to besides those on the internet that speak HTTPS. Hosts are
/// written `host` or `host:port`; without a port all of them are meant.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Hosts that may be in private networks.
    pub private: Vec<String>,
    /// Hosts that need not speak TLS. Credentials are not sent to them if they do not.
    pub insecure: Vec<String>,
    /// Whether a registry on this host (`localhost:5000/x`) may be used, with or without TLS.
    pub loopback: bool,
}

/// The addresses of a name, as a future.
pub type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// How names become addresses.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(&str) -> Addresses + Send + Sync>);

impl Resolver {
    /// Asks `answer` for every name.
    pub fn new(answer: impl Fn(&str) -> Addresses + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    fn resolve(&self, host: &str) -> Addresses {
        (self.0)(host)
    }
}

impl Default for Resolver {
    /// As this host does it, its file of hosts included.
    fn default() -> Self {
        Self::new(|host| {
            let host = host.to_owned();
            Box::pin(async move {
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// What one pull may connect to.
#[derive(Debug)]
pub(crate) struct Guard {
    reach: Reach,
    /// Only a registry on this host may lead to this host.
    loopback: bool,
    resolver: Resolver,
}

impl Guard {
    pub(crate) fn new(reach: Reach, resolver: Resolver, registry: &Url) -> Self {
        let loopback = reach.loopback && is_loopback_name(registry);
        Self { reach, loopback, resolver }
    }

    /// Whether a host need not speak TLS.
    pub(crate) fn may_be_plain(&self, url: &Url) -> bool {
        self.is_loopback(url) || is_listed(&self.reach.insecure, url)
    }

    /// Whether a host is this one, and allowed.
    pub(crate) fn is_loopback(&self, url: &Url) -> bool {
        self.loopback && is_loopback_name(url)
    }

    /// Where to connect for `url`.
    ///
    /// # Errors
    /// If the scheme is not allowed there, the name is unknown, or any of its addresses is one
    /// that must not be connected to.
    pub(crate) async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>, Error> {
        let unreachable =
            |reason: &str| Error::Unreachable { host: shown(url), reason: reason.to_owned() };
        let found = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            Some(Host::Domain(name)) => self
                .resolver
                .resolve(name)
                .await
                .map_err(|error| unreachable(&error.to_string()))?,
            None => return Err(unreachable("it is no host")),
        };
        for address in &found {
            let allowed = match class(*address) {
                Class::Public => true,
                Class::Private => is_listed(&self.reach.private, url),
                Class::Loopback => self.is_loopback(url),
                Class::Never => false,
            };
            if !allowed {
                return Err(Error::ForbiddenAddress { host: shown(url), address: *address });
            }
        }
        if found.is_empty() {
            return Err(unreachable("its name has no address"));
        }
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip.to_canonical(), port)).collect())
    }
}

/// A host with its port, if it has one, for people.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_listed(list: &[String], url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let port = url.port_or_known_default();
    list.iter().any(|entry| {
        let (name, wanted) = match entry.rsplit_once(':') {
            // A colon inside of brackets is part of an address.
            Some((name, digits)) if !digits.ends_with(']') => (name, digits.parse::<u16>().ok()),
            _ => (entry.as_str(), None),
        };
        let all = name.len() == entry.len();
        name.eq_ignore_ascii_case(host) && (all || wanted.is_some() && wanted == port)
    })
}

fn is_loopback_name(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => class(address.into()) == Class::Loopback,
        Some(Host::Ipv6(address)) => class(address.into()) == Class::Loopback,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn guard(reach: Reach, registry: &str, addresses: &'static [&'static str]) -> Guard {
        let resolver = Resolver::new(|_| {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            Box::pin(async move { Ok(addresses) })
        });
        Guard::new(reach, resolver, &url(registry))
    }

    async fn reaches(guard: &Guard, to: &str) -> Result<Vec<SocketAddr>, crate::Kind> {
        guard.addresses(&url(to)).await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_name_with_any_forbidden_address_is_refused_whatever_else_it_has() {
        for addresses in [
            &["127.0.0.1"][..],
            &["1.1.1.1", "10.0.0.1"],
            &["169.254.169.254"],
            &["::ffff:192.168.0.1"],
            &["64:ff9b::a9fe:a9fe"],
            &["2606:4700::1", "fe80::1"],
        ] {
            let guard = guard(Reach::default(), "https://r.example", addresses);
            let refused = reaches(&guard, "https://r.example").await;
            assert_eq!(refused, Err(crate::Kind::Forbidden), "{addresses:?}");
        }
        let guard = guard(Reach::default(), "https://r.example", &["1.1.1.1"]);
        let addresses = reaches(&guard, "https://r.example").await.unwrap();
        assert_eq!(addresses, ["1.1.1.1:443".parse().unwrap()]);
    }

    #[tokio::test]
    async fn numbers_in_any_spelling_are_addresses() {
        let guard = guard(Reach::default(), "https://r.example", &["1.1.1.1"]);
        for to in ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:10.0.0.1]"] {
            let refused = reaches(&guard, &format!("https://{to}/")).await;
            assert_eq!(refused, Err(crate::Kind::Forbidden), "{to}");
        }
    }

    #[tokio::test]
    async fn private_hosts_are_those_that_are_listed_and_metadata_is_never() {
        let reach = || Reach { private: vec!["r.lan:5000".to_owned()], ..Reach::default() };
        let private = guard(reach(), "https://r.lan:5000", &["10.0.0.5"]);
        assert!(reaches(&private, "https://r.lan:5000").await.is_ok());
        assert!(reaches(&private, "https://R.LAN:5000").await.is_ok());
        assert!(reaches(&private, "https://r.lan").await.is_err());
        assert!(reaches(&private, "https://other.lan:5000").await.is_err());
        let metadata = guard(reach(), "https://r.lan:5000", &["169.254.169.254"]);
        assert!(reaches(&metadata, "https://r.lan:5000").await.is_err());
    }

    #[tokio::test]
    async fn only_a_registry_on_this_host_leads_to_this_host() {
        let reach = || Reach { loopback: true, ..Reach::default() };
        let own = guard(reach(), "http://localhost:5000", &["127.0.0.1"]);
        assert!(reaches(&own, "http://localhost:6000").await.is_ok());
        assert!(reaches(&own, "http://127.0.0.2:1").await.is_ok());
        assert!(reaches(&own, "http://disguised.example").await.is_err());
        let other = guard(reach(), "https://r.example", &["127.0.0.1"]);
        for to in ["https://localhost", "https://127.0.0.1", "https://r.example", "https://[::1]"] {
            assert_eq!(reaches(&other, to).await, Err(crate::Kind::Forbidden), "{to}");
        }
    }

    #[test]
    fn only_listed_hosts_and_this_one_may_do_without_tls() {
        let insecure = vec!["r.lan:5000".to_owned(), "[fd00::1]".to_owned()];
        let reach = Reach { insecure, loopback: true, ..Reach::default() };
        let guard = guard(reach, "http://localhost:5000", &[]);
        for (to, may) in [
            ("http://r.lan:5000", true),
            ("http://r.lan", false),
            ("http://[fd00::1]:1", true),
            ("http://[fd00::2]:1", false),
            ("http://localhost:1", true),
            ("http://127.0.0.1", true),
            ("http://localhost.example", false),
        ] {
            assert_eq!(guard.may_be_plain(&url(to)), may, "{to}");
        }
    }
}
