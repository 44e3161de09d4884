//! Ports of sandboxes that the public reaches.
//!
//! A publication is an alias, below which HTTP reaches a port, or a port of the host, through which
//! TCP does. It lives in the store and ends with its sandbox; copies of the sandbox have none.

mod alias;
mod facade;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use base::ids::{PublicationId, SandboxId, UserId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

pub use self::{alias::Alias, facade::Published};

/// Most published ports of one sandbox.
pub const MOST_PUBLICATIONS: u32 = 64;
/// Most ranges of addresses that one publication names.
pub const MOST_RANGES: usize = 64;
/// Longest name of who may come in, bytes.
const USER_MAX: usize = 64;

/// One port that the public reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its id.
    pub id: PublicationId,
    /// Whose port it is.
    pub sandbox: SandboxId,
    /// The sandbox's owner.
    pub owner: UserId,
    /// The port in the sandbox.
    pub port: u16,
    /// Where the public finds it.
    pub place: Place,
    /// Who comes in.
    pub guard: Guard,
    /// Addresses that come in; any if there is none.
    pub allow: Vec<IpNet>,
    /// Unix seconds.
    pub created_at: i64,
}

/// Where the public finds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// HTTP below this name.
    Alias(Alias),
    /// TCP on this port of the host.
    HostPort(u16),
}

/// Who comes in. Of secrets only the SHA-256 is kept: they are random and long, so there is nothing
/// that a slow hash would have to make up for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Anybody.
    Open,
    /// Whoever has the token.
    Token {
        /// Of the token, lower-case hexadecimal.
        sha256: String,
    },
    /// Whoever has name and password.
    Basic {
        /// The name.
        user: String,
        /// Of the password, lower-case hexadecimal.
        sha256: String,
    },
}

/// Asks for a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// The port in the sandbox.
    pub port: u16,
    /// Where the public is to find it.
    pub place: WantedPlace,
    /// Who is to come in.
    pub guard: WantedGuard,
    /// Addresses that are to come in; any if there is none.
    pub allow: Vec<IpNet>,
}

/// Where the public is to find a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedPlace {
    /// HTTP below this name; one is made up if absent.
    Alias(Option<String>),
    /// TCP on this port of the host.
    HostPort(u16),
}

/// Who is to come in; secrets are made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedGuard {
    /// Anybody.
    Open,
    /// Whoever has a token.
    Token,
    /// Whoever has this name and a password.
    Basic {
        /// The name.
        user: String,
    },
}

impl Publication {
    /// Whether somebody from there comes in.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|range| range.contains(&address))
    }

    /// The alias, if it has one.
    pub fn alias(&self) -> Option<&Alias> {
        match &self.place {
            Place::Alias(alias) => Some(alias),
            Place::HostPort(_) => None,
        }
    }

    /// Whether it is what was asked for.
    fn is_like(&self, wanted: &PublishRequest) -> bool {
        let place = match (&self.place, &wanted.place) {
            (Place::Alias(alias), WantedPlace::Alias(wanted)) => {
                wanted.as_ref().is_none_or(|wanted| wanted == alias.as_str())
            }
            (Place::HostPort(port), WantedPlace::HostPort(wanted)) => port == wanted,
            _ => false,
        };
        let guard = match (&self.guard, &wanted.guard) {
            (Guard::Open, WantedGuard::Open) | (Guard::Token { .. }, WantedGuard::Token) => true,
            (Guard::Basic { user, .. }, WantedGuard::Basic { user: wanted }) => user == wanted,
            _ => false,
        };
        place && guard && self.allow == wanted.allow
    }
}

impl Guard {
    /// Whether this is the token. How long it takes does not depend on what is right about it.
    pub fn takes_token(&self, token: &[u8]) -> bool {
        matches!(self, Self::Token { sha256 } if is_digest_of(sha256, token))
    }

    /// Whether these are name and password.
    pub fn takes_password(&self, name: &[u8], password: &[u8]) -> bool {
        let Self::Basic { user, sha256 } = self else { return false };
        let name = user.as_bytes().ct_eq(name);
        bool::from(name) & is_digest_of(sha256, password)
    }
}

fn is_digest_of(sha256: &str, secret: &[u8]) -> bool {
    base::hash::bytes(secret).as_bytes().ct_eq(sha256.as_bytes()).into()
}
