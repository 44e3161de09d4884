//! What the configuration says about images.

use orchestrator::images::{ImageSettings, RegistrySettings};
use serde::Deserialize;

use super::ConfigError;

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawImages {
    /// Registries in private networks and on this host that every user may name.
    #[serde(default)]
    allow_registries: Vec<String>,
    /// Registries that need not speak TLS.
    #[serde(default)]
    insecure_registries: Vec<String>,
    /// Largest archive that can be imported.
    max_import_bytes: Option<u64>,
    /// Largest context of a build.
    max_context_bytes: Option<u64>,
}

impl RawImages {
    pub(super) fn resolve(self) -> Result<ImageSettings, ConfigError> {
        let hosts = self.allow_registries.iter().chain(&self.insecure_registries);
        if let Some(wrong) = hosts.clone().find(|host| !is_host(host)) {
            return Err(ConfigError::Images(format!(
                "{wrong:?} is not HOST or HOST:PORT, such as registry.lan:5000"
            )));
        }
        let default = ImageSettings::default();
        Ok(ImageSettings {
            registries: RegistrySettings {
                allowed: self.allow_registries,
                insecure: self.insecure_registries,
            },
            import_max: self.max_import_bytes.unwrap_or(default.import_max),
            context_max: self.max_context_bytes.unwrap_or(default.context_max),
        })
    }
}

/// Whether it is the host of a registry as references have it, perhaps with a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // A colon inside of brackets is part of an address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let named = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            !host.is_empty() && host.bytes().all(allowed)
        }
    };
    named && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<ImageSettings, String> {
        let raw: RawImages = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_means_public_registries_and_large_archives() {
        let settings = of("").unwrap();
        assert_eq!(settings, ImageSettings::default());
        assert_eq!(settings.import_max, 20 << 30);
        let said = of("allow_registries = ['r.lan', '[::1]:5000']\nmax_import_bytes = 7").unwrap();
        assert_eq!(said.registries.allowed, ["r.lan", "[::1]:5000"]);
        assert_eq!(said.import_max, 7);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for wrong in ["", "http://r.lan", "r.lan/x", "r.lan:", "r.lan:0", "r.lan:99999", "[r]:1"] {
            let told = of(&format!("insecure_registries = ['{wrong}']")).unwrap_err();
            assert!(told.contains("HOST:PORT"), "{told}");
        }
        assert!(of("registries = []").is_err());
    }
}
