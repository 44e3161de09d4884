//! What images are called: `alpine`, `ghcr.io/owner/name:tag`, `localhost:5000/x@sha256:…`,
//! `[::1]:5000/x`.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use oci_spec::distribution::Reference as Parsed;
use url::Host;

use crate::{Digest, Error};

/// No reference is longer, in bytes: a host name, a repository, a tag and a digest.
const LENGTH_MAX: usize = 253 + 255 + 128 + 80;
/// What is shown of something that is no reference, in characters.
const SHOWN: usize = 100;
const HUB: &str = "docker.io";
/// In the place of an address of IPv6, for the library that knows no such references.
const STAND_IN: &str = "address.invalid";
/// Where Docker's own registry really is.
const HUB_HOST: &str = "registry-1.docker.io";

/// The name of an image in a registry, completed as Docker does: without a host it is one of
/// `docker.io`, without an owner there one of `library`, without tag and digest it is `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry as people write it: a host, with a port if it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The image's path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` if there is a digest only.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which says more than the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What an image of this reference is called here if nobody says otherwise: the last part of
    /// its path, and the tag unless that is `latest`.
    pub fn default_name(&self) -> String {
        let last = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        match self.tag.as_deref() {
            None | Some("latest") => last.to_owned(),
            Some(tag) => format!("{last}-{tag}"),
        }
    }

    /// Where requests go.
    pub(crate) fn host(&self) -> &str {
        if self.registry == HUB { HUB_HOST } else { &self.registry }
    }

    /// What a manifest is asked for by.
    pub(crate) fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |reason: &str| Error::Reference {
            text: text.chars().take(SHOWN).collect(),
            reason: reason.to_owned(),
        };
        if text.len() > LENGTH_MAX {
            return Err(refused("it is too long"));
        }
        if text.contains("://") {
            return Err(refused("it begins with a scheme"));
        }
        let address = Address::split(text).map_err(refused)?;
        let stood_in = address.as_ref().map(|(_, path)| format!("{STAND_IN}/{path}"));
        let parsed: Parsed =
            stood_in.as_deref().unwrap_or(text).parse().map_err(|error| match error {
                _ if is_bare_address(text) => {
                    refused("an address of IPv6 is written in brackets: [::1]:5000/name")
                }
                oci_spec::distribution::ParseError::NameContainsUppercase => {
                    refused("it has capitals")
                }
                other => refused(&other.to_string()),
            })?;
        // A first part with capitals could be a host or a part of the path; programs differ.
        if parsed.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refused("it has capitals"));
        }
        let digest = match parsed.digest() {
            Some(digest) => {
                Some(digest.parse().map_err(|_| refused("its digest is not a SHA-256"))?)
            }
            None => None,
        };
        let reference = Self {
            registry: match address {
                Some((address, _)) => address.to_string(),
                None => parsed.registry().to_owned(),
            },
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest,
        };
        // It is written out where it is kept, and read again.
        if reference.to_string().len() > LENGTH_MAX {
            return Err(refused("it is too long"));
        }
        Ok(reference)
    }
}

/// A registry that is an address of IPv6, perhaps with a port.
struct Address {
    host: Ipv6Addr,
    port: Option<u16>,
}

impl Address {
    /// What a reference begins with, and the rest of it; nothing if it does not begin with a bracket.
    ///
    /// # Errors
    /// Why that is none.
    fn split(text: &str) -> Result<Option<(Self, &str)>, &'static str> {
        let Some(rest) = text.strip_prefix('[') else { return Ok(None) };
        let (host, rest) = rest.split_once(']').ok_or("its address has no closing bracket")?;
        let host = host.parse().map_err(|_| "what is in brackets is no address of IPv6")?;
        let (port, path) = rest.split_once('/').ok_or("it has no name after the address")?;
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return Err("after an address comes a port or a slash"),
            Some(digits) => Some(port_number(digits).ok_or("its port is no port")?),
        };
        Ok(Some((Self { host, port }, path)))
    }
}

impl fmt::Display for Address {
    /// As it is written in addresses of the web, where one address has one form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Host::<String>::Ipv6(self.host))?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn port_number(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port > 0)
}

/// Whether somebody has forgotten the brackets.
fn is_bare_address(text: &str) -> bool {
    let host = text.split('/').next().filter(|host| !host.starts_with('[')).unwrap_or_default();
    host.parse::<Ipv6Addr>().is_ok() || host.contains("::")
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_mean_what_they_mean_to_docker() {
        let hex = "a".repeat(64);
        let cases = [
            ("alpine".to_owned(), "docker.io/library/alpine:latest", "alpine"),
            ("alpine:3.20".to_owned(), "docker.io/library/alpine:3.20", "alpine-3.20"),
            ("grafana/loki".to_owned(), "docker.io/grafana/loki:latest", "loki"),
            ("index.docker.io/a/b:c".to_owned(), "docker.io/a/b:c", "b-c"),
            ("localhost/x".to_owned(), "localhost/x:latest", "x"),
            ("localhost:5000/x".to_owned(), "localhost:5000/x:latest", "x"),
            ("10.0.0.1:80/x/y:z".to_owned(), "10.0.0.1:80/x/y:z", "y-z"),
            (format!("ghcr.io/x/y@sha256:{hex}"), &format!("ghcr.io/x/y@sha256:{hex}"), "y"),
            (format!("y:1@sha256:{hex}"), &format!("docker.io/library/y:1@sha256:{hex}"), "y-1"),
        ];
        for (text, whole, name) in cases {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), whole);
            assert_eq!(reference.default_name(), name);
            assert_eq!(whole.parse::<Reference>().unwrap(), reference);
        }
        assert_eq!("alpine".parse::<Reference>().unwrap().host(), "registry-1.docker.io");
    }

    #[test]
    fn a_registry_may_be_an_address_of_ipv6_in_brackets() {
        let hex = "a".repeat(64);
        for (text, registry, whole) in [
            ("[::1]:5000/x:y".to_owned(), "[::1]:5000", "[::1]:5000/x:y"),
            ("[::1]/x".to_owned(), "[::1]", "[::1]/x:latest"),
            ("[0:0:0::1]:05000/a/b".to_owned(), "[::1]:5000", "[::1]:5000/a/b:latest"),
            ("[2001:DB8::A]/x".to_owned(), "[2001:db8::a]", "[2001:db8::a]/x:latest"),
            (
                format!("[fd00::1]:1/x@sha256:{hex}"),
                "[fd00::1]:1",
                &format!("[fd00::1]:1/x@sha256:{hex}"),
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.registry(), reference.host()), (registry, registry));
            assert_eq!(reference.to_string(), whole);
            assert_eq!(whole.parse::<Reference>().unwrap(), reference);
            assert_eq!(
                reference.default_name(),
                reference.to_string().parse::<Reference>().unwrap().default_name()
            );
        }
        for (text, told) in [
            ("[::1", "closing bracket"),
            ("[::1]", "no name"),
            ("[::1]:5000", "no name"),
            ("[::1]x/y", "a port or a slash"),
            ("[::1]:/y", "its port"),
            ("[::1]:0/y", "its port"),
            ("[::1]:+5/y", "its port"),
            ("[::1]:65536/y", "its port"),
            ("[]/y", "no address"),
            ("[1.2.3.4]/y", "no address"),
            ("[fe80::1%eth0]/y", "no address"),
            ("[localhost]:5000/y", "no address"),
            ("[[::1]]/y", "no address"),
            ("[::1]/", "invalid"),
            ("[::1]/X", "invalid"),
            ("[::1]/a b", "invalid"),
            ("::1/x", "in brackets"),
            ("::1:5000/x", "in brackets"),
            ("fd00:0:0:0:0:0:0:1/x", "in brackets"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Reference, "{text:?}");
            assert!(error.to_string().contains(told), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_reason() {
        let upper = format!("x@sha256:{}", "A".repeat(64));
        let sha512 = format!("x@sha512:{}", "a".repeat(128));
        let long = "a/".repeat(400);
        for text in [
            "",
            " ",
            "Alpine",
            "A/0",
            "https://ghcr.io/x",
            "a/../b",
            "/etc/passwd",
            "a b",
            "x:",
            "x@",
            "x@sha256:12",
            "x:..",
            "a\n",
            "a?b",
            "a#b",
            "user:pass@host/x",
            &upper,
            &sha512,
            &long,
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Reference, "{text:?}");
            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn what_is_too_long_once_it_is_completed_is_refused() {
        for length in LENGTH_MAX - 20..=LENGTH_MAX {
            let text = format!("{}.x/a", "h".repeat(length - ".x/a".len()));
            let fits = length + ":latest".len() <= LENGTH_MAX;
            match text.parse::<Reference>() {
                Ok(reference) => {
                    assert!(fits, "{length}");
                    assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
                }
                Err(error) => assert!(!fits, "{length}: {error}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_address_and_port_is_the_registry_that_it_says(
            address in any::<[u8; 16]>().prop_map(Ipv6Addr::from),
            port in proptest::option::of(1..=u16::MAX),
            name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}",
            tag in proptest::option::of("[A-Za-z0-9]{1,8}"),
        ) {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            let tag = tag.map_or_else(String::new, |tag| format!(":{tag}"));
            let reference: Reference = format!("[{address}]{port}/{name}{tag}").parse().unwrap();
            prop_assert_eq!(reference.repository(), &name);
            // As whoever connects understands it.
            let url = url::Url::parse(&format!("https://{}/", reference.host())).unwrap();
            prop_assert_eq!(url.host(), Some(Host::Ipv6(address)));
            let said = url.port().map_or_else(String::new, |port| format!(":{port}"));
            prop_assert_eq!(said, if port == ":443" { String::new() } else { port });
            prop_assert!(reference.registry().starts_with(url.host_str().unwrap()));
        }

        #[test]
        fn any_text_in_brackets_is_refused_or_means_the_same_written_out(
            text in "\\[[0-9a-fA-F:.%\\[\\]]{0,12}\\]?(:[0-9+]{0,6})?/?[ -~]{0,12}"
        ) {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(text.starts_with('['));
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }

        #[test]
        fn any_text_is_refused_or_means_the_same_written_out(text in "[ -~]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
