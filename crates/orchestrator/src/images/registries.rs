//! Which registries are asked, on whose behalf.

use std::sync::OnceLock;

use registry::{Client, Kind as Wrong, Options, Reach, Reference};

use crate::{Error, Kind, Result, model::User};

/// Which registries may be asked besides those on the internet that speak HTTPS. Hosts are written
/// `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Those in private networks and on this host that every user may name. Admins may name any on
    /// this host.
    pub allowed: Vec<String>,
    /// Those that need not speak TLS.
    pub insecure: Vec<String>,
}

/// What registries are asked with.
#[derive(Debug)]
pub(super) struct Registries {
    settings: RegistrySettings,
    usual: OnceLock<Client>,
    /// For those who may name a registry on this host.
    local: OnceLock<Client>,
}

impl Registries {
    pub(super) fn new(settings: RegistrySettings) -> Self {
        Self { settings, usual: OnceLock::new(), local: OnceLock::new() }
    }

    /// What asks for a reference on behalf of a user. Blocks at first.
    pub(super) fn client(&self, user: &User, reference: &Reference) -> Result<Client> {
        let listed = self.settings.allowed.iter().any(|host| names(host, reference.registry()));
        let loopback = user.admin || listed;
        let place = if loopback { &self.local } else { &self.usual };
        if let Some(client) = place.get() {
            return Ok(client.clone());
        }
        let reach = Reach {
            private: self.settings.allowed.clone(),
            insecure: self.settings.insecure.clone(),
            loopback,
        };
        let client = Client::new(Options { reach, ..Options::default() })?;
        Ok(place.get_or_init(|| client).clone())
    }
}

/// Whether an entry of the configuration means that registry.
fn names(entry: &str, registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    entry.eq_ignore_ascii_case(registry) || entry.eq_ignore_ascii_case(host)
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Self {
        let kind = match error.kind() {
            Wrong::Reference => Kind::InvalidName,
            Wrong::NotFound => Kind::ImageNotFound,
            Wrong::Unauthorized => Kind::RegistryDenied,
            Wrong::Forbidden => Kind::RegistryForbidden,
            Wrong::Unreachable | Wrong::Malformed | Wrong::RateLimited => Kind::ImageUnavailable,
            Wrong::BadDigest | Wrong::TooLarge | Wrong::Unsupported | Wrong::WrongArchitecture => {
                Kind::ImageInvalid
            }
            Wrong::Io => {
                return match error {
                    registry::Error::Io(error) => error.into(),
                    other => Self::internal("a file operation failed", other),
                };
            }
        };
        let (message, hint) = (error.to_string(), error.hint());
        let told = Self::new(kind, message);
        match hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_port_means_all_of_them() {
        for (entry, registry, expected) in [
            ("r.lan", "r.lan", true),
            ("r.lan", "r.lan:5000", true),
            ("R.lan:5000", "r.lan:5000", true),
            ("r.lan:5000", "r.lan:5001", false),
            ("r.lan:5000", "r.lan", false),
            ("r.lan", "other.lan", false),
            ("127.0.0.1", "127.0.0.1:5000", true),
            ("[::1]", "[::1]:5000", true),
        ] {
            assert_eq!(names(entry, registry), expected, "{entry} {registry}");
        }
    }
}
