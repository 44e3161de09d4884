//! Which daemon, and which key.
//!
//! Flags and environment come before the config file, and that before the daemon of this machine.
//!
//! Invariant: a key goes only where it belongs. One from the config file is sent only to that
//! file's daemon, and any key for the daemon of this machine, such as the administrator's that was
//! found there, only to its socket: while the daemon is down, anybody may listen on its TCP port.

use std::{
    env,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use api::client::Endpoint;
use base::files::write_atomic;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::failure::hinted;

/// The config file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Certificates of those who are trusted at the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

/// What flags and environment say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) url: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
    pub(crate) ca: Option<Ca<'a>>,
    pub(crate) data_dir: &'a Path,
}

/// A file with the certificates of those who are trusted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ca<'a> {
    pub(crate) path: &'a Path,
    /// From the environment, where it is for whatever is encrypted, and not from a flag.
    pub(crate) ambient: bool,
}

impl Ca<'_> {
    /// The daemon with those trusted.
    pub(crate) fn of(self, endpoint: Endpoint) -> Result<Endpoint> {
        if endpoint.is_encrypted() || self.ambient {
            return Ok(endpoint.trusting(self.path));
        }
        Err(hinted(
            format!("--ca is for what is encrypted, and {endpoint} is not"),
            "begin the URL with https://, or leave --ca away",
        ))
    }
}

/// A daemon and the key for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<String>,
}

/// The daemon to talk to.
pub(crate) fn target(given: &Given<'_>) -> Result<Target> {
    // With these given there is nothing that the file could add.
    let config = match given {
        Given { url: Some(url), token: Some(_), ca, .. }
            if ca.is_some() || !url.starts_with("https://") =>
        {
            Config::default()
        }
        _ => read()?,
    };
    let stored = config.ca.clone().filter(|_| given.url.is_none_or(|url| config.is_for(url)));
    let target = resolve(given, config, || admin_key(given.data_dir))?;
    let endpoint = match (given.ca, stored) {
        (Some(ca), _) => ca.of(target.endpoint)?,
        (None, Some(path)) => target.endpoint.trusting(&path),
        (None, None) => target.endpoint,
    };
    Ok(Target { endpoint, ..target })
}

impl Config {
    fn is_for(&self, url: &str) -> bool {
        self.api_url.as_deref() == Some(url)
    }
}

/// Whom the config file has trusted at a URL, for who stores it again.
pub(crate) fn stored_ca(url: &str) -> Option<PathBuf> {
    read().ok().filter(|config| config.is_for(url))?.ca
}

fn resolve(
    given: &Given<'_>,
    config: Config,
    admin_key: impl FnOnce() -> Option<String>,
) -> Result<Target> {
    let url = given.url.or(config.api_url.as_deref());
    let socket = Endpoint::Unix(given.data_dir.join("api.sock"));
    let endpoint = match url {
        Some(url) => url.parse()?,
        None => Endpoint::local(given.data_dir),
    };
    let of_file = (url == config.api_url.as_deref()).then_some(config.token).flatten();
    if let Some(token) = given.token.map(str::to_owned).or(of_file) {
        // A key without a URL is for the daemon of this machine.
        let endpoint = if url.is_some() { endpoint } else { socket };
        return Ok(Target { endpoint, token: Some(token) });
    }
    if (url.is_none() || endpoint == socket)
        && let Some(key) = admin_key()
    {
        return Ok(Target { endpoint: socket, token: Some(key) });
    }
    Ok(Target { endpoint, token: None })
}

/// The key that the daemon leaves for whoever may read its data directory.
fn admin_key(data_dir: &Path) -> Option<String> {
    let key = fs::read_to_string(data_dir.join("admin.key")).ok()?;
    Some(key.trim().to_owned()).filter(|key| !key.is_empty())
}

/// Where the config file is, and whether that was said explicitly.
fn path() -> Option<(PathBuf, bool)> {
    if let Some(path) = env::var_os("BHATTI_CONFIG") {
        return Some((path.into(), true));
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some((Path::new(&home).join(".bhatti/config.toml"), false))
}

/// Reads the config file; one that was not named need not be there.
fn read() -> Result<Config> {
    let Some((path, explicit)) = path() else { return Ok(Config::default()) };
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .with_context(|| format!("read the config file {}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound && !explicit => Ok(Config::default()),
        Err(error) => Err(error).context("read the config file"),
    }
}

/// Writes the config file, for its owner only, and says where it is.
pub(crate) fn write(config: &Config) -> Result<PathBuf> {
    let Some((path, _)) = path() else {
        return Err(hinted("there is no home directory", "name a file in BHATTI_CONFIG"));
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).context("make the config directory")?;
    }
    let text = toml::to_string(config).context("encode the config file")?;
    write_atomic(&path, text.as_bytes(), 0o600).context("write the config file")?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/d";

    fn given<'a>(url: Option<&'a str>, token: Option<&'a str>) -> Given<'a> {
        Given { url, token, ca: None, data_dir: Path::new(DIR) }
    }

    fn config(url: Option<&str>, token: Option<&str>) -> Config {
        Config { api_url: url.map(Into::into), token: token.map(Into::into), ca: None }
    }

    fn resolved(given: Given<'_>, config: Config, admin: Option<&str>) -> (String, Option<String>) {
        let target = resolve(&given, config, || admin.map(Into::into)).unwrap();
        (target.endpoint.to_string(), target.token)
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_this_machine() {
        let file = || config(Some("http://file:1"), Some("fk"));
        let flags = given(Some("http://flag:1"), Some("gk"));
        assert_eq!(resolved(flags, file(), None), ("http://flag:1".into(), Some("gk".into())));
        let found = resolved(given(None, None), file(), Some("admin"));
        assert_eq!(found, ("http://file:1".into(), Some("fk".into())));
        let found = resolved(given(None, Some("gk")), file(), None);
        assert_eq!(found, ("http://file:1".into(), Some("gk".into())));
        let here = resolved(given(None, None), Config::default(), Some("admin"));
        assert_eq!(here, ("unix:///d/api.sock".into(), Some("admin".into())));
    }

    #[test]
    fn no_key_goes_to_a_daemon_that_it_is_not_for() {
        let file = config(Some("http://file:1"), Some("fk"));
        assert_eq!(resolved(given(Some("http://other:1"), None), file, Some("admin")).1, None);
        let elsewhere = config(Some("http://file:1"), None);
        assert_eq!(resolved(given(None, None), elsewhere, Some("admin")).1, None);
        let loopback = given(Some("http://127.0.0.1:8080"), None);
        assert_eq!(resolved(loopback, Config::default(), Some("admin")).1, None);
        let keyed = config(None, Some("fk"));
        assert_eq!(resolved(given(Some("http://other:1"), None), keyed, None).1, None);
    }

    #[test]
    fn the_admin_key_is_never_sent_to_the_tcp_port() {
        let target = resolve(&given(None, None), Config::default(), || Some("k".into())).unwrap();
        assert_eq!(target.endpoint, Endpoint::Unix("/d/api.sock".into()));
        let target = resolve(&given(None, None), Config::default(), || None).unwrap();
        assert!(matches!(target.endpoint, Endpoint::Local { .. }));
    }

    #[test]
    fn who_is_trusted_is_for_what_is_encrypted_only() {
        let of = |url: &str, ambient| {
            let ca = Ca { path: Path::new("/ca"), ambient };
            ca.of(url.parse().unwrap()).map_err(|error| error.to_string())
        };
        let Ok(Endpoint::Https { ca, .. }) = of("https://box", false) else { panic!() };
        assert_eq!(ca.as_deref(), Some(Path::new("/ca")));
        for url in ["http://box", "/run/api.sock"] {
            assert!(of(url, false).unwrap_err().contains("--ca is for what is encrypted"));
            assert_eq!(of(url, true), Ok(url.parse().unwrap()));
        }
    }

    #[test]
    fn no_key_is_sent_to_a_tcp_port_that_nobody_named() {
        let keyed = config(None, Some("fk"));
        for (given, file, key) in
            [(given(None, Some("gk")), Config::default(), "gk"), (given(None, None), keyed, "fk")]
        {
            let target = resolve(&given, file, || None).unwrap();
            let expected = Endpoint::Unix("/d/api.sock".into());
            assert_eq!((target.endpoint, target.token.as_deref()), (expected, Some(key)));
        }
    }

    #[test]
    fn a_misspelt_setting_is_named() {
        let error = toml::from_str::<Config>("url = 'x'").unwrap_err().to_string();
        assert!(error.contains("unknown field `url`"), "{error}");
    }
}
