//! Certificates by ACME: the table `[acme]`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use axum::http::{Uri, uri::Scheme};
use serde::Deserialize;

use super::ConfigError;

/// Who is asked if nobody else is named.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Most names that are listed.
const MOST_NAMES: usize = 100;

/// Who makes certificates, how it is convinced, and for which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Where the authority says what it can do, `https://`.
    pub directory: String,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// Certificates of those who are trusted at the directory besides whom the machine trusts.
    pub ca: Option<PathBuf>,
    /// How a name is proven.
    pub challenge: Challenge,
    /// What there are always to be certificates for; each of these lists is one.
    pub wanted: Vec<Vec<String>>,
    /// A domain for which, and for each alias in it, there is a certificate once somebody asks.
    pub on_demand: Option<String>,
}

/// How the authority sees that a name is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A file on port 80.
    Http01,
    /// A certificate of a special kind on port 443.
    TlsAlpn01,
    /// A record in DNS, which a program of the operator's makes.
    Dns01 {
        /// The program.
        hook: PathBuf,
    },
}

/// The table as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAcme {
    #[serde(default)]
    agree_to_terms: bool,
    directory: Option<String>,
    email: Option<String>,
    challenge: Option<RawChallenge>,
    dns_hook: Option<PathBuf>,
    ca: Option<PathBuf>,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawChallenge {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[serde(rename = "dns-01")]
    Dns01,
}

/// What the listeners want of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    /// The API's certificates come from there.
    pub(super) api: bool,
    /// The public listener's do.
    pub(super) public: bool,
    /// In which every alias is a host.
    pub(super) zone: Option<String>,
    /// What visitors see without a zone.
    pub(super) host: Option<String>,
    /// Where plain HTTP is answered.
    pub(super) http_listen: Option<SocketAddr>,
}

impl RawAcme {
    /// Whether names are proven over plain HTTP.
    pub(super) fn is_http(&self) -> bool {
        self.challenge == Some(RawChallenge::Http01)
    }

    pub(super) fn resolve(self, wish: Wish) -> Result<AcmeConfig, ConfigError> {
        let wrong = |what: String| Err(ConfigError::Acme(what));
        let directory = self.directory.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        if !self.agree_to_terms {
            return wrong(format!(
                "agree_to_terms = true is missing; it says that you agree to the terms of {directory}"
            ));
        }
        let parsed = directory.parse::<Uri>().ok();
        let is_url = |uri: &Uri| uri.scheme() == Some(&Scheme::HTTPS) && uri.authority().is_some();
        if !parsed.as_ref().is_some_and(is_url) {
            return wrong("directory is a URL that begins with https://".to_owned());
        }
        let is_mail = |text: &String| {
            let parts = text.split_once('@').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
            parts && text.chars().all(|c| c.is_ascii_graphic())
        };
        if !self.email.as_ref().is_none_or(is_mail) {
            return wrong("email is an address, such as ops@example.com".to_owned());
        }
        let challenge = challenge(self.challenge, self.dns_hook)?;
        if challenge == Challenge::Http01 && wish.http_listen.is_none() {
            return wrong(
                "http-01 is answered at public.http_listen, which there is none of; use tls-alpn-01 \
                 or dns-01 otherwise"
                    .to_owned(),
            );
        }
        let names = names(self.names, &challenge)?;
        let mut wanted: Vec<Vec<String>> = names.iter().map(|name| vec![name.clone()]).collect();
        let mut on_demand = None;
        if wish.api && names.is_empty() {
            return wrong("names has to say what the API at listen is called".to_owned());
        }
        match (wish.public, wish.zone, wish.host.filter(|host| is_name(host))) {
            (true, Some(zone), _) if matches!(challenge, Challenge::Dns01 { .. }) => {
                wanted.insert(0, vec![zone.clone(), format!("*.{zone}")]);
            }
            (true, Some(zone), _) => on_demand = Some(zone),
            (true, None, Some(host)) if !names.contains(&host) => wanted.insert(0, vec![host]),
            (true, None, None) if names.is_empty() => {
                return wrong(
                    "there is no name to have a certificate for; set public.zone, public.origin or \
                     acme.names"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let (email, ca) = (self.email, self.ca);
        Ok(AcmeConfig { directory, email, ca, challenge, wanted, on_demand })
    }
}

fn challenge(said: Option<RawChallenge>, hook: Option<PathBuf>) -> Result<Challenge, ConfigError> {
    let wrong = |what: &str| Err(ConfigError::Acme(what.to_owned()));
    match (said, hook) {
        (Some(RawChallenge::Dns01) | None, Some(hook)) if hook.is_absolute() => {
            Ok(Challenge::Dns01 { hook })
        }
        (Some(RawChallenge::Dns01) | None, Some(_)) => {
            wrong("dns_hook is the absolute path of a program")
        }
        (Some(RawChallenge::Dns01), None) => {
            wrong("dns-01 needs dns_hook, a program that makes records")
        }
        (Some(_), Some(_)) => wrong("there is a dns_hook, but challenge says another than dns-01"),
        (Some(RawChallenge::Http01), None) => Ok(Challenge::Http01),
        (Some(RawChallenge::TlsAlpn01) | None, None) => Ok(Challenge::TlsAlpn01),
    }
}

fn names(said: Vec<String>, challenge: &Challenge) -> Result<Vec<String>, ConfigError> {
    let wrong = |what: String| Err(ConfigError::Acme(what));
    if said.len() > MOST_NAMES {
        return wrong(format!("names has at most {MOST_NAMES}"));
    }
    let mut names = Vec::new();
    for name in said {
        let name = name.to_ascii_lowercase();
        let plain = name.strip_prefix("*.").unwrap_or(&name);
        if !is_name(plain) {
            return wrong(format!("{name:?} in names is not the name of a host"));
        }
        if plain != name && !matches!(challenge, Challenge::Dns01 { .. }) {
            return wrong(format!("{name:?} in names needs challenge = \"dns-01\""));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether an authority could know a host by it: no address, and not of this machine only.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let legal = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        legal && !part.is_empty() && part.len() <= 63 && !part.starts_with('-')
    };
    text.contains('.')
        && text.len() <= 253
        && text.split('.').all(part)
        && text.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, wish: Wish) -> Result<AcmeConfig, String> {
        let raw: RawAcme = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.resolve(wish).map_err(|error| error.to_string())
    }

    fn in_zone() -> Wish {
        Wish { public: true, zone: Some("pub.example".to_owned()), ..Wish::default() }
    }

    #[test]
    fn a_zone_has_a_wildcard_by_dns_and_single_names_otherwise() {
        let dns = resolved("agree_to_terms = true\ndns_hook = '/h'", in_zone()).unwrap();
        assert_eq!(dns.wanted, [["pub.example".to_owned(), "*.pub.example".to_owned()]]);
        assert_eq!(dns.on_demand, None);
        let text = "agree_to_terms = true\nnames = ['Box.example', 'box.example']";
        let alpn = resolved(text, in_zone()).unwrap();
        assert_eq!(alpn.challenge, Challenge::TlsAlpn01);
        assert_eq!(alpn.wanted, [["box.example".to_owned()]]);
        assert_eq!(alpn.on_demand.as_deref(), Some("pub.example"));
        assert_eq!(alpn.directory, LETS_ENCRYPT);
    }

    #[test]
    fn without_a_zone_it_is_what_visitors_see() {
        let wish =
            |host: &str| Wish { public: true, host: Some(host.to_owned()), ..Wish::default() };
        let one = resolved("agree_to_terms = true", wish("box.example")).unwrap();
        assert_eq!((one.wanted, one.on_demand), (vec![vec!["box.example".to_owned()]], None));
        for nameless in ["192.0.2.1", "[::1]", "localhost"] {
            let told = resolved("agree_to_terms = true", wish(nameless)).unwrap_err();
            assert!(told.contains("public.zone"), "{told}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let http = Wish { http_listen: Some("127.0.0.1:80".parse().unwrap()), ..in_zone() };
        resolved("agree_to_terms = true\nchallenge = 'http-01'", http).unwrap();
        for (line, word) in [
            ("agree_to_terms = false", "agree_to_terms = true is missing"),
            ("directory = 'http://x/dir'", "https://"),
            ("directory = 'x'", "https://"),
            ("email = 'nobody'", "email"),
            ("challenge = 'dns-01'", "dns_hook"),
            ("dns_hook = 'hook'", "absolute"),
            ("challenge = 'tls-alpn-01'\ndns_hook = '/h'", "another than dns-01"),
            ("challenge = 'http-01'", "public.http_listen"),
            ("names = ['*.a.example']", "dns-01"),
            ("names = ['192.0.2.1']", "names"),
            ("names = ['localhost']", "names"),
            ("challenge = 'http-02'", "http-02"),
        ] {
            let agreed = if line.starts_with("agree") { "" } else { "agree_to_terms = true\n" };
            let told = resolved(&format!("{agreed}{line}"), in_zone()).unwrap_err();
            assert!(told.contains(word), "{line}: {told}");
        }
        let api = Wish { api: true, ..Wish::default() };
        let told = resolved("agree_to_terms = true", api).unwrap_err();
        assert!(told.contains("names"), "{told}");
    }
}
