//! What the configuration says about networks.

use std::net::SocketAddr;

use ipnet::Ipv4Net;
use orchestrator::{Connection, NetworkSettings, Pool, Uplink, UserEgress};
use serde::Deserialize;

use crate::ConfigError;

/// How sandboxes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Each user has a network, with a way out through the host.
    Nat,
    /// Each user has a network, and there is no way out of it.
    Isolated,
    /// Sandboxes have no network.
    Off,
    /// Each sandbox has a network of its own, which its monitor makes; for daemons that are not root.
    User,
}

impl std::str::FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nat" => Ok(Self::Nat),
            "isolated" => Ok(Self::Isolated),
            "off" => Ok(Self::Off),
            "user" => Ok(Self::User),
            _ => Err("use nat, isolated, user or off".to_owned()),
        }
    }
}

/// What monitors let out of the networks that they make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Open,
    Deny,
}

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    mode: Option<NetworkMode>,
    /// The range that users' networks are taken from.
    pool: Option<Ipv4Net>,
    /// What no sandbox may reach besides the private ranges.
    #[serde(default)]
    forbidden: Vec<Ipv4Net>,
    /// Who is asked for the addresses of names outside.
    #[serde(default)]
    dns: Vec<SocketAddr>,
    /// What sandboxes of mode `user` may reach at most.
    user_egress: Option<Said>,
}

impl Section {
    /// What it comes to; nothing if there are to be no networks. A flag has the last word. `root` is
    /// whether the daemon is.
    pub(crate) fn resolve(
        self,
        flag: Option<NetworkMode>,
        root: bool,
    ) -> Result<Option<Connection>, ConfigError> {
        let default = if root { NetworkMode::Nat } else { NetworkMode::User };
        let uplink = match (flag.or(self.mode).unwrap_or(default), root) {
            (NetworkMode::Off, _) => return Ok(None),
            (NetworkMode::User, false) => return self.user().map(Some),
            (NetworkMode::User, true) => {
                return Err(ConfigError::Network(
                    "mode user is for daemons that are not root, whose VMs would be in the host's \
                     network with it: use nat, isolated or off",
                ));
            }
            (NetworkMode::Nat | NetworkMode::Isolated, false) => {
                return Err(ConfigError::Network(
                    "modes nat and isolated need root: run the daemon with sudo, or use user (the \
                     default without root) or off",
                ));
            }
            (NetworkMode::Nat, true) => Uplink::Host,
            (NetworkMode::Isolated, true) => Uplink::None,
        };
        if self.user_egress.is_some() {
            return Err(ConfigError::Network("user_egress is for mode user"));
        }
        let pool = match self.pool {
            Some(range) => {
                Pool::new(range).map_err(|error| ConfigError::Pool(error.to_string()))?
            }
            None => Pool::default(),
        };
        let Self { forbidden, dns, .. } = self;
        Ok(Some(Connection::Networks(NetworkSettings { pool, uplink, forbidden, dns })))
    }

    fn user(self) -> Result<Connection, ConfigError> {
        if self.pool.is_some() || !self.forbidden.is_empty() || !self.dns.is_empty() {
            // Without a word about it they would be believed to hold.
            return Err(ConfigError::Network(
                "mode user has no use for pool, forbidden and dns: take them out",
            ));
        }
        Ok(Connection::User(match self.user_egress {
            Some(Said::Open) => UserEgress::Open,
            Some(Said::Deny) | None => UserEgress::Deny,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(
        text: &str,
        flag: Option<NetworkMode>,
        root: bool,
    ) -> Result<Option<Connection>, String> {
        let section: Section = toml::from_str(text).map_err(|error| error.to_string())?;
        section.resolve(flag, root).map_err(|error| error.to_string())
    }

    fn resolved(text: &str, flag: Option<NetworkMode>) -> Result<Option<NetworkSettings>, String> {
        Ok(connection(text, flag, true)?.map(|connection| match connection {
            Connection::Networks(settings) => settings,
            Connection::User(_) => panic!("root has no such network"),
        }))
    }

    #[test]
    fn without_root_a_monitor_makes_the_network_and_lets_nothing_out_unless_that_was_said() {
        let user = |text: &str, flag| connection(text, flag, false);
        assert_eq!(user("", None), Ok(Some(Connection::User(UserEgress::Deny))));
        let open = "user_egress = 'open'";
        assert_eq!(user(open, None), Ok(Some(Connection::User(UserEgress::Open))));
        assert_eq!(user("mode = 'user'", Some(NetworkMode::Off)), Ok(None));
        for text in ["mode = 'nat'", "mode = 'isolated'"] {
            assert!(user(text, None).unwrap_err().contains("sudo"), "{text}");
        }
        assert!(user("forbidden = ['203.0.113.0/24']", None).unwrap_err().contains("forbidden"));
        assert!(user("user_egress = 'ajar'", None).is_err());
        let root = connection("", Some(NetworkMode::User), true).unwrap_err();
        assert!(root.contains("not root"), "{root}");
        assert!(connection(open, None, true).unwrap_err().contains("mode user"));
    }

    #[test]
    fn sandboxes_have_a_way_out_unless_somebody_says_otherwise() {
        let plain = resolved("", None).unwrap().unwrap();
        assert_eq!((plain.uplink, plain.pool), (Uplink::Host, Pool::default()));
        let closed = resolved("mode = 'isolated'", None).unwrap().unwrap();
        assert_eq!(closed.uplink, Uplink::None);
        assert_eq!(resolved("mode = 'isolated'", Some(NetworkMode::Off)).unwrap(), None);
    }

    #[test]
    fn a_range_that_cannot_be_used_is_refused() {
        let said = resolved("pool = '10.9.0.0/16'\nforbidden = ['203.0.113.0/24']", None);
        assert_eq!(said.unwrap().unwrap().pool.range().to_string(), "10.9.0.0/16");
        assert!(resolved("pool = '8.8.0.0/16'", None).unwrap_err().contains("private"));
        assert!(resolved("pool = '10.9.0.0'", None).is_err());
        assert!(resolved("modus = 'nat'", None).is_err());
    }
}
