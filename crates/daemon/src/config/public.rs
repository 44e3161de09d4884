//! The public listener.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use axum::http::{Uri, uri::Scheme};
use ipnet::IpNet;
use serde::Deserialize;

use super::{
    ConfigError, LISTEN_NONE,
    acme::RawAcme,
    tls::{RawTls, Said, TlsSource},
};
use crate::public::{Limits, Origin, Rate, Site};

/// Ports of the host that users may take, if nobody says otherwise.
///
/// Few of what programs and people expect somebody else on.
const HOST_PORTS: RangeInclusive<u16> = 20000..=29999;

/// Where and how publications are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicConfig {
    /// The TCP address.
    pub listen: SocketAddr,
    /// Where its certificates come from.
    pub tls: TlsSource,
    /// Where plain HTTP is answered with where the encrypted is found.
    pub http_listen: Option<SocketAddr>,
    pub(crate) zone: Option<String>,
    pub(crate) origin: Option<Origin>,
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) limits: Limits,
    pub(crate) host_ports: RangeInclusive<u16>,
}

/// What the command line says of it.
#[derive(Debug, Clone, Default)]
pub struct PublicFlags {
    /// `--public-listen`: an address with port, or `none`.
    pub listen: Option<String>,
    /// `--public-zone`.
    pub zone: Option<String>,
    /// `--public-http-listen`: an address with port, or `none`.
    pub http_listen: Option<String>,
    /// `--public-tls`: `off`, `local-ca`, `acme` or `auto`.
    pub tls: Option<String>,
    /// `--public-cert`.
    pub cert: Option<PathBuf>,
    /// `--public-key`.
    pub key: Option<PathBuf>,
}

/// The table `[public]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPublic {
    listen: Option<String>,
    http_listen: Option<String>,
    zone: Option<String>,
    origin: Option<String>,
    #[serde(default)]
    tls: RawTls,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    trusted_proxies: Vec<String>,
    host_ports: Option<String>,
    #[serde(default)]
    limits: RawRates,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRates {
    client: Option<RawRate>,
    alias: Option<RawRate>,
    all: Option<RawRate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    per_min: u32,
    burst: u32,
}

impl PublicConfig {
    /// Where publications are found once the listener has this address.
    pub(crate) fn site(&self, bound: SocketAddr) -> Site {
        let secure = self.tls != TlsSource::Off;
        let origin = self.origin.clone().unwrap_or_else(|| Origin {
            secure,
            host: self.zone.clone().unwrap_or_else(|| Origin::of(bound, secure).host),
            port: bound.port(),
        });
        Site { zone: self.zone.clone(), origin }
    }
}

/// `None` if there is to be no public listener.
pub(super) fn resolve(
    raw: RawPublic,
    flags: PublicFlags,
    acme: Option<&RawAcme>,
) -> Result<Option<PublicConfig>, ConfigError> {
    let wrong = |what: &str| ConfigError::Public(what.to_owned());
    let listen = match flags.listen.or(raw.listen) {
        None => return Ok(None),
        Some(text) if text == LISTEN_NONE => return Ok(None),
        Some(text) => text.parse::<SocketAddr>().map_err(|_| ConfigError::Listen(text))?,
    };
    let zone = flags.zone.or(raw.zone).map(|zone| zone.to_ascii_lowercase());
    if zone.as_deref().is_some_and(|zone| !is_zone(zone)) {
        return Err(wrong("zone is not the name of a domain, such as preview.example.com"));
    }
    let origin = raw.origin.as_deref().map(origin).transpose()?;
    if let (Some(zone), Some(origin)) = (&zone, &origin)
        && *zone != origin.host
    {
        return Err(wrong("the host of origin has to be the zone"));
    }
    let tls = match flags.tls.as_deref() {
        None => raw.tls,
        Some("auto") => RawTls::Auto,
        Some("off") => RawTls::Off,
        Some("local-ca") => RawTls::LocalCa,
        Some("acme") => RawTls::Acme,
        Some(_) => return Err(wrong("tls is auto, off, local-ca or acme")),
    };
    let (cert, key) = (flags.cert.or(raw.tls_cert), flags.key.or(raw.tls_key));
    // Who says how it is done wants it done.
    let tls = match tls {
        RawTls::Auto if acme.is_some() && cert.is_none() && key.is_none() => RawTls::Acme,
        said => said,
    };
    let tls = Said { tls, cert, key }.source(!listen.ip().is_loopback()).map_err(wrong)?;
    let by_http = tls == TlsSource::Acme && acme.is_some_and(RawAcme::is_http);
    let http_listen = http_listen(flags.http_listen.or(raw.http_listen), listen.ip(), by_http)?;
    if http_listen.is_some() && tls == TlsSource::Off {
        return Err(wrong("http_listen leads to what is encrypted, and tls is off"));
    }
    let trusted = raw.trusted_proxies.iter().map(|text| range(text)).collect::<Result<_, _>>()?;
    let host_ports = raw.host_ports.as_deref().map_or(Some(HOST_PORTS), ports);
    let host_ports =
        host_ports.ok_or_else(|| wrong("host_ports is a range of ports, such as 20000-29999"))?;
    let limits = limits(&raw.limits);
    Ok(Some(PublicConfig { listen, tls, http_listen, zone, origin, trusted, limits, host_ports }))
}

/// Where plain HTTP is answered: as it is said, or on its usual port if names are proven there.
fn http_listen(
    said: Option<String>,
    address: IpAddr,
    by_http: bool,
) -> Result<Option<SocketAddr>, ConfigError> {
    match said {
        None => Ok(by_http.then(|| SocketAddr::new(address, 80))),
        Some(text) if text == LISTEN_NONE => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| ConfigError::Listen(text)),
    }
}

fn is_zone(text: &str) -> bool {
    let part = |part: &str| {
        let legal = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        legal && !part.is_empty() && part.len() <= 63 && !part.starts_with('-')
    };
    text.split('.').all(part) && text.len() <= 180 && text.parse::<IpAddr>().is_err()
}

fn origin(text: &str) -> Result<Origin, ConfigError> {
    let parsed = text.parse::<Uri>().ok().filter(|uri| uri.path() == "/" && uri.query().is_none());
    let read = parsed.as_ref().and_then(|uri| {
        let secure = *uri.scheme()? == Scheme::HTTPS;
        let usual = if secure { 443 } else { 80 };
        let known = secure || *uri.scheme()? == Scheme::HTTP;
        let host = uri.host()?.to_ascii_lowercase();
        known.then(|| Origin { secure, host, port: uri.port_u16().unwrap_or(usual) })
    });
    let what = "origin is what visitors see, such as https://preview.example.com";
    read.ok_or_else(|| ConfigError::Public(what.to_owned()))
}

fn range(text: &str) -> Result<IpNet, ConfigError> {
    let range = text.parse().ok().or_else(|| text.parse().ok().map(|one: IpAddr| one.into()));
    let what = || ConfigError::Public(format!("{text:?} is no range of addresses"));
    range.ok_or_else(what)
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-')?;
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (low > 0 && low <= high).then_some(low..=high)
}

fn limits(raw: &RawRates) -> Limits {
    let usual = Limits::default();
    let rate = |raw: &Option<RawRate>, usual: Rate| match raw {
        Some(RawRate { per_min, burst }) => Rate { per_min: *per_min, burst: *burst },
        None => usual,
    };
    Limits {
        client: rate(&raw.client, usual.client),
        alias: rate(&raw.alias, usual.alias),
        all: rate(&raw.all, usual.all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> Result<Option<PublicConfig>, String> {
        let raw = toml::from_str(text).unwrap();
        resolve(raw, PublicFlags::default(), None).map_err(|error| error.to_string())
    }

    fn some(text: &str) -> PublicConfig {
        public(text).unwrap().unwrap()
    }

    #[test]
    fn there_is_none_unless_somebody_says_so() {
        assert_eq!(public(""), Ok(None));
        assert_eq!(public("listen = 'none'"), Ok(None));
        let plain = some("listen = '127.0.0.1:0'");
        assert_eq!((&plain.tls, plain.limits), (&TlsSource::Off, Limits::default()));
        let site = plain.site("127.0.0.1:8443".parse().unwrap());
        assert_eq!(
            (site.zone, site.origin.host.as_str(), site.origin.port),
            (None, "127.0.0.1", 8443)
        );
        let flags = PublicFlags { listen: Some("none".into()), ..PublicFlags::default() };
        let raw = toml::from_str("listen = '127.0.0.1:0'").unwrap();
        assert_eq!(resolve(raw, flags, None).unwrap(), None);
    }

    #[test]
    fn what_others_reach_is_encrypted_unless_somebody_says_otherwise() {
        assert_eq!(some("listen = '0.0.0.0:443'").tls, TlsSource::LocalCa);
        assert_eq!(some("listen = '0.0.0.0:80'\ntls = 'off'").tls, TlsSource::Off);
        assert_eq!(some("listen = '127.0.0.1:1'\ntls = 'local-ca'").tls, TlsSource::LocalCa);
        let files = some("listen = '0.0.0.0:443'\ntls_cert = '/c'\ntls_key = '/k'").tls;
        assert_eq!(files, TlsSource::Files { cert: "/c".into(), key: "/k".into() });
    }

    #[test]
    fn who_says_how_acme_is_done_has_it_and_plain_http_where_that_needs_it() {
        let with = |public: &str, acme: &str| {
            let (public, acme) = (toml::from_str(public).unwrap(), toml::from_str(acme).unwrap());
            resolve(public, PublicFlags::default(), Some(&acme)).unwrap().unwrap()
        };
        let plain = with("listen = '192.0.2.1:443'", "agree_to_terms = true");
        assert_eq!((plain.tls, plain.http_listen), (TlsSource::Acme, None));
        let http = "challenge = 'http-01'";
        let usual = with("listen = '192.0.2.1:443'", http).http_listen;
        assert_eq!(usual, Some("192.0.2.1:80".parse().unwrap()));
        let none = with("listen = '192.0.2.1:443'\nhttp_listen = 'none'", http).http_listen;
        assert_eq!(none, None);
        let files = "listen = '192.0.2.1:443'\ntls_cert = '/c'\ntls_key = '/k'";
        assert!(matches!(with(files, http).tls, TlsSource::Files { .. }));
        assert_eq!(
            with("listen = '192.0.2.1:443'\ntls = 'local-ca'", http).tls,
            TlsSource::LocalCa
        );
    }

    #[test]
    fn visitors_may_come_by_another_address_than_ours() {
        let text =
            "listen = '127.0.0.1:8443'\nzone = 'Pub.example'\norigin = 'https://pub.example'";
        let site = some(text).site("127.0.0.1:8443".parse().unwrap());
        let place = orchestrator::publications::Place::Alias("web".parse().unwrap());
        assert_eq!(site.url(&place), "https://web.pub.example/");
        let text = "listen = '127.0.0.1:1'\norigin = 'https://box.example:8443'";
        let site = some(text).site("127.0.0.1:1".parse().unwrap());
        assert_eq!(site.url(&place), "https://box.example:8443/web/");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, word) in [
            ("zone = 'a b'", "zone"),
            ("zone = '192.0.2.1'", "zone"),
            ("origin = 'ftp://x'", "origin"),
            ("origin = 'https://x/y'", "origin"),
            ("zone = 'a.example'\norigin = 'https://b.example'", "origin"),
            ("tls_cert = '/c'", "key"),
            ("tls = 'off'\ntls_cert = '/c'\ntls_key = '/k'", "certificate"),
            ("http_listen = '127.0.0.1:80'", "http_listen"),
            ("trusted_proxies = ['x']", "range"),
            ("host_ports = '9-1'", "host_ports"),
        ] {
            let told = public(&format!("listen = '127.0.0.1:1'\n{line}")).unwrap_err();
            assert!(told.contains(word), "{line}: {told}");
        }
        assert!(public("listen = '443'").unwrap_err().contains("IP:PORT"));
    }

    #[test]
    fn limits_are_set_one_by_one() {
        let text = "listen = '127.0.0.1:1'\nhost_ports = '20000-20009'\n\
                    trusted_proxies = ['10.0.0.0/8', '::1']\n\
                    [limits]\nclient = { per_min = 0, burst = 0 }";
        let config = some(text);
        assert_eq!(config.limits.client, Rate { per_min: 0, burst: 0 });
        assert_eq!(config.limits.alias, Limits::default().alias);
        assert_eq!((config.host_ports, config.trusted.len()), (20000..=20009, 2));
    }
}
