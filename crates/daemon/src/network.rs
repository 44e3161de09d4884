//! What the configuration says about networks.

use std::net::SocketAddr;

use ipnet::Ipv4Net;
use orchestrator::{NetworkSettings, Pool, Uplink};
use serde::Deserialize;

use crate::ConfigError;

/// How sandboxes are connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Each user has a network, with a way out through the host.
    #[default]
    Nat,
    /// Each user has a network, and there is no way out of it.
    Isolated,
    /// Sandboxes have no network.
    Off,
}

impl std::str::FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nat" => Ok(Self::Nat),
            "isolated" => Ok(Self::Isolated),
            "off" => Ok(Self::Off),
            _ => Err("use nat, isolated or off".to_owned()),
        }
    }
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
}

impl Section {
    /// What it comes to; nothing if there are to be no networks. A flag has the last word.
    pub(crate) fn resolve(
        self,
        flag: Option<NetworkMode>,
    ) -> Result<Option<NetworkSettings>, ConfigError> {
        let pool = match self.pool {
            Some(range) => {
                Pool::new(range).map_err(|error| ConfigError::Pool(error.to_string()))?
            }
            None => Pool::default(),
        };
        let uplink = match flag.or(self.mode).unwrap_or_default() {
            NetworkMode::Nat => Uplink::Host,
            NetworkMode::Isolated => Uplink::None,
            NetworkMode::Off => return Ok(None),
        };
        Ok(Some(NetworkSettings { pool, uplink, forbidden: self.forbidden, dns: self.dns }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, flag: Option<NetworkMode>) -> Result<Option<NetworkSettings>, String> {
        let section: Section = toml::from_str(text).map_err(|error| error.to_string())?;
        section.resolve(flag).map_err(|error| error.to_string())
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
