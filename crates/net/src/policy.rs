//! Where a sandbox may connect to.

mod within;

use std::{fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::within::Words;

/// Longest host name that DNS knows.
const NAME_MAX: usize = 253;
/// Longest part of one.
const LABEL_MAX: usize = 63;

/// What a sandbox may reach beyond its own network. What is forbidden to all (the host, its LAN,
/// link-local addresses, cloud metadata) stays so unless `cidrs` says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// What counts where nothing else is said.
    pub mode: Mode,
    /// Hosts that an allow-list lets through, by DNS answer and by what connections say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Ranges that may be reached in every mode, private ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<IpNet>,
    /// Ranges that may be reached in every mode, but for what is closed to all. Nobody says them:
    /// they are what is left of `cidrs` where those may not open anything, see [`Reach`].
    #[serde(skip)]
    pub outside: Vec<IpNet>,
}

/// What counts where nothing else is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The internet may be reached.
    #[default]
    Open,
    /// Nothing but `cidrs` may be.
    Deny,
    /// Nothing but `hosts` and `cidrs` may be.
    Allowlist,
}

/// A host, or all hosts below a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    /// In lower case, without a dot at the end.
    name: String,
    /// Whether hosts below the name are meant, and not the name itself.
    below: bool,
}

/// Why a text is no [`HostPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host: use a name such as api.example.com, or *.example.com for all below it"
)]
pub struct InvalidHost(String);

/// What a sandbox may reach in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// What holds.
    pub holds: Egress,
    /// What would hold if nobody limited what its owner may have, to tell who denied something.
    pub asked: Egress,
}

impl From<Egress> for Reach {
    fn from(egress: Egress) -> Self {
        Self { holds: egress.clone(), asked: egress }
    }
}

impl HostPattern {
    /// Whether every host that is meant by `other` is meant.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (true, true) if self.name == other.name => true,
            (false, true) => false,
            _ => self.matches(&other.name),
        }
    }

    /// Whether a host is meant, in any case of letters and with or without a dot at the end.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        if !self.below {
            return host.eq_ignore_ascii_case(&self.name);
        }
        let (host, name) = (host.as_bytes(), self.name.as_bytes());
        let Some(rest) = host.len().checked_sub(name.len()) else { return false };
        rest >= 2 && host[rest - 1] == b'.' && host[rest..].eq_ignore_ascii_case(name)
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=LABEL_MAX).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // What looks like an address is one to programs, and belongs into `cidrs`.
        let last = name.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit());
        if name.len() > NAME_MAX || numeric || !name.split('.').all(label) {
            return Err(InvalidHost(text.to_owned()));
        }
        Ok(Self { name, below })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHost;

    fn try_from(text: String) -> Result<Self, InvalidHost> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_means_what_it_says() {
        let matches = |pattern: &str, host| pattern.parse::<HostPattern>().unwrap().matches(host);
        assert!(matches("api.example.com", "API.example.com."));
        assert!(!matches("api.example.com", "x.api.example.com"));
        assert!(matches("*.example.com", "a.b.EXAMPLE.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.example.com", "badexample.com"));
        assert!(!matches("*.example.com", ".example.com"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["", "*", "*.", "a..b", "-a.b", "a_b-.c", "1.2.3.4", "*.5", "a b", "ä.de", "::1"]
        {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        let long = format!("{}.com", "a".repeat(64));
        assert!(long.parse::<HostPattern>().is_err());
    }

    proptest! {
        #[test]
        fn a_pattern_survives_being_written(text in "(\\*\\.)?[a-zA-Z0-9]{1,8}(\\.[a-z]{1,8}){1,3}\\.?") {
            let pattern: HostPattern = text.parse().unwrap();
            prop_assert_eq!(pattern.to_string().parse::<HostPattern>().unwrap(), pattern);
        }

        #[test]
        fn any_text_is_judged(text in ".*", host in ".*") {
            if let Ok(pattern) = text.parse::<HostPattern>() {
                pattern.matches(&host);
            }
        }
    }
}
