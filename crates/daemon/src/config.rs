//! What the daemon is told: a file, overridden by flags, checked once.

use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use api::IdleSetting;
use fs_err as fs;
use orchestrator::{Connection, backups::BackupSettings, images::ImageSettings, model::IdlePolicy};
use serde::Deserialize;

pub use self::{
    acme::{AcmeConfig, Challenge},
    places::{SYSTEM_DATA_DIR, data_dir},
    public::{PublicConfig, PublicFlags},
    tls::TlsSource,
};
use self::{
    acme::{RawAcme, Wish},
    backup::RawBackup,
    images::RawImages,
    places::is_root,
    public::RawPublic,
    tls::{RawTls, Said},
};
use crate::{
    idle,
    network::{self, NetworkMode},
};

mod acme;
mod backup;
mod images;
mod places;
mod public;
mod tls;

/// The variable that names another file, which must exist.
const FILE_VARIABLE: &str = "BHATTI_DAEMON_CONFIG";
/// Where clients on this host look for the daemon if nobody says otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// What turns the TCP listener off.
const LISTEN_NONE: &str = "none";
/// Largest JSON body, KiB.
const DEFAULT_JSON_BODY_KB: usize = 1024;

/// The daemon's configuration, valid as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where everything is kept; absolute.
    pub data_dir: PathBuf,
    /// The Unix socket.
    pub socket: PathBuf,
    /// The TCP address, if there is to be one.
    pub listen: Option<SocketAddr>,
    /// How the TCP address is encrypted.
    pub tls: TlsSource,
    /// Where publications are served, if anywhere.
    pub public: Option<PublicConfig>,
    /// How certificates are had by ACME, if a listener wants any.
    pub acme: Option<AcmeConfig>,
    /// Largest JSON body in bytes; standard input of a command comes on top.
    pub json_body_max: usize,
    /// What a sandbox gets that does not say, for whoever makes the orchestrator's settings.
    pub sandbox: SandboxDefaults,
    /// How sandboxes are connected; not at all if absent.
    pub network: Option<Connection>,
    /// Where volumes are backed up to.
    pub backups: BackupSettings,
    /// Where images may come from.
    pub images: ImageSettings,
}

/// Defaults for sandboxes, as far as the file or a flag sets them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxDefaults {
    /// Image name.
    pub image: Option<String>,
    /// Guest memory, MB.
    pub memory_mb: Option<u64>,
    /// Size of the writable disk, MB.
    pub disk_size_mb: Option<u64>,
    /// When idle vCPUs are paused, seconds.
    pub idle_warm_sec: Option<IdleSetting>,
    /// When an idle sandbox goes to disk, seconds from the same moment.
    pub idle_cold_sec: Option<IdleSetting>,
    /// Available memory of the host below which idle sandboxes go to disk early, MB.
    pub memory_low_mb: Option<u64>,
    /// How many guests and how many QEMU processes stand ready.
    pub prestarted: Option<usize>,
}

impl SandboxDefaults {
    /// When idle sandboxes sleep; absent where nothing was said.
    pub fn idle(&self) -> IdlePolicy {
        idle::policy(self.idle_warm_sec, self.idle_cold_sec)
    }
}

/// What the command line says; it has the last word.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--listen`: an address with port, or `none`.
    pub listen: Option<String>,
    /// `--insecure-listen`.
    pub insecure_listen: bool,
    /// `--tls-cert`.
    pub tls_cert: Option<PathBuf>,
    /// `--tls-key`.
    pub tls_key: Option<PathBuf>,
    /// The public listener.
    pub public: PublicFlags,
    /// `--idle-warm`.
    pub idle_warm: Option<IdleSetting>,
    /// `--memory-low`.
    pub memory_low_mb: Option<u64>,
    /// `--prestarted`.
    pub prestarted: Option<usize>,
    /// `--idle-cold`.
    pub idle_cold: Option<IdleSetting>,
    /// `--network`.
    pub network: Option<NetworkMode>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration cannot be read")]
    Unreadable(#[source] io::Error),
    /// The file is not what it should be.
    #[error("{} is not a valid configuration", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The listen address is none.
    #[error("listen address {0:?} is neither IP:PORT, such as 127.0.0.1:8080, nor \"none\"")]
    Listen(String),
    /// The API would go through the network as it is.
    #[error(
        "{0} can be reached from other hosts, and API keys would cross the network unencrypted: \
         leave tls = \"off\" away, or set insecure_listen = true (--insecure-listen) if the network \
         itself is private"
    )]
    Insecure(SocketAddr),
    /// The range for networks cannot be used.
    #[error("network.pool: {0}")]
    Pool(String),
    /// What is said of networks cannot be had by who runs the daemon.
    #[error("network: {0}")]
    Network(&'static str),
    /// What is said of encryption does not go together.
    #[error("{0}")]
    Tls(&'static str),
    /// What is said of ACME does not go together.
    #[error("acme: {0}")]
    Acme(String),
    /// What is said of backups makes no sense.
    #[error("backup: {0}")]
    Backup(String),
    /// What is said of images makes no sense.
    #[error("images: {0}")]
    Images(String),
    /// What is said of the public listener makes no sense.
    #[error("the public listener: {0}")]
    Public(String),
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    data_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    listen: Option<String>,
    #[serde(default)]
    insecure_listen: bool,
    #[serde(default)]
    tls: RawTls,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    public: RawPublic,
    acme: Option<RawAcme>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    sandbox: SandboxDefaults,
    #[serde(default)]
    network: network::Section,
    #[serde(default)]
    backup: RawBackup,
    #[serde(default)]
    images: RawImages,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    json_body_kb: Option<usize>,
}

impl Config {
    /// Reads the file, if there is one, and applies the flags.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let named = env::var_os(FILE_VARIABLE).map(PathBuf::from);
        let path = named.clone().unwrap_or_else(places::file);
        let raw = match fs::read_to_string(&path) {
            Ok(text) => parse(&text, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                Raw::default()
            }
            Err(error) => return Err(ConfigError::Unreadable(error)),
        };
        resolve(raw, flags, is_root())
    }
}

fn parse(text: &str, path: &Path) -> Result<Raw, ConfigError> {
    toml::from_str(text)
        .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) })
}

fn resolve(raw: Raw, flags: Flags, root: bool) -> Result<Config, ConfigError> {
    let data_dir = flags.data_dir.or(raw.data_dir).unwrap_or_else(data_dir);
    // Absolute, because it is handed to child processes that run elsewhere.
    let data_dir = std::path::absolute(data_dir).map_err(ConfigError::Unreadable)?;
    let socket = flags.socket.or(raw.socket).unwrap_or_else(|| data_dir.join("api.sock"));
    let listen = match flags.listen.or(raw.listen) {
        Some(text) => parse_listen(text)?,
        None => Some(DEFAULT_LISTEN),
    };
    let said = Said {
        tls: raw.tls,
        cert: flags.tls_cert.or(raw.tls_cert),
        key: flags.tls_key.or(raw.tls_key),
    };
    let insecure = flags.insecure_listen || raw.insecure_listen;
    let reached = listen.is_some_and(|address| !address.ip().is_loopback());
    let tls = said.source(reached && !insecure).map_err(ConfigError::Tls)?;
    if let Some(address) = listen
        && reached
        && !insecure
        && tls == TlsSource::Off
    {
        return Err(ConfigError::Insecure(address));
    }
    let public = public::resolve(raw.public, flags.public, raw.acme.as_ref())?;
    let acme = acme(raw.acme, listen.is_some() && tls == TlsSource::Acme, public.as_ref())?;
    let json_body_kb = raw.limits.json_body_kb.unwrap_or(DEFAULT_JSON_BODY_KB);
    let json_body_max = json_body_kb.saturating_mul(1024);
    let mut sandbox = raw.sandbox;
    sandbox.idle_warm_sec = flags.idle_warm.or(sandbox.idle_warm_sec);
    sandbox.idle_cold_sec = flags.idle_cold.or(sandbox.idle_cold_sec);
    sandbox.memory_low_mb = flags.memory_low_mb.or(sandbox.memory_low_mb);
    sandbox.prestarted = flags.prestarted.or(sandbox.prestarted);
    let network = raw.network.resolve(flags.network, root)?;
    let backups = raw.backup.resolve()?;
    Ok(Config {
        data_dir,
        socket,
        listen,
        tls,
        public,
        acme,
        json_body_max,
        sandbox,
        network,
        backups,
        images: raw.images.resolve()?,
    })
}

/// How certificates are had by ACME, if a listener wants any.
fn acme(
    raw: Option<RawAcme>,
    api: bool,
    public: Option<&PublicConfig>,
) -> Result<Option<AcmeConfig>, ConfigError> {
    let public = public.filter(|public| public.tls == TlsSource::Acme);
    let wish = Wish {
        api,
        public: public.is_some(),
        zone: public.and_then(|public| public.zone.clone()),
        host: public.and_then(|public| Some(public.origin.as_ref()?.host.clone())),
        http_listen: public.and_then(|public| public.http_listen),
    };
    match (raw, wish.api || wish.public) {
        (Some(raw), true) => raw.resolve(wish).map(Some),
        (None, false) => Ok(None),
        (None, true) => Err(ConfigError::Acme("tls = \"acme\" needs the table [acme]".to_owned())),
        (Some(_), false) => Err(ConfigError::Acme(
            "no listener uses it; set public.listen, or tls = \"acme\" for the API".to_owned(),
        )),
    }
}

fn parse_listen(text: String) -> Result<Option<SocketAddr>, ConfigError> {
    if text == LISTEN_NONE {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| ConfigError::Listen(text))
}

#[cfg(test)]
mod tests {
    use orchestrator::model::IdleLimit;

    use super::*;

    fn config(text: &str, flags: Flags) -> Result<Config, String> {
        parse(text, Path::new("/c.toml"))
            .and_then(|raw| resolve(raw, flags, true))
            .map_err(|error| base::chain(&error))
    }

    #[test]
    fn nothing_said_means_the_documented_defaults() {
        let config = config("", Flags::default()).unwrap();
        assert_eq!(config.data_dir, data_dir());
        assert_eq!(config.socket, data_dir().join("api.sock"));
        assert_eq!(config.listen, Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(config.json_body_max, 1 << 20);
    }

    #[test]
    fn flags_override_the_file_and_the_socket_follows_the_data_directory() {
        let text = "data_dir = '/d'\nlisten = '[::1]:1'\n[limits]\njson_body_kb = 2\n\
                    [sandbox]\nimage = 'debian'\nmemory_mb = 512\n";
        let from_file = config(text, Flags::default()).unwrap();
        assert_eq!(from_file.socket, Path::new("/d/api.sock"));
        assert_eq!(from_file.listen, Some("[::1]:1".parse().unwrap()));
        assert_eq!(from_file.json_body_max, 2048);
        assert_eq!(from_file.sandbox.image.as_deref(), Some("debian"));
        let flags =
            Flags { data_dir: Some("/e".into()), listen: Some("none".into()), ..Flags::default() };
        let overridden = config(text, flags).unwrap();
        assert_eq!(overridden.socket, Path::new("/e/api.sock"));
        assert_eq!(overridden.listen, None);
    }

    #[test]
    fn a_flag_says_when_sandboxes_sleep_and_the_file_says_it_otherwise() {
        let idle = |text, flags| config(text, flags).unwrap().sandbox.idle();
        assert_eq!(idle("", Flags::default()), IdlePolicy::default());
        let text = "[sandbox]\nidle_warm_sec = 5\nidle_cold_sec = 'never'\n";
        let (warm, cold) = (Some(IdleLimit::After(5)), Some(IdleLimit::Never));
        assert_eq!(idle(text, Flags::default()), IdlePolicy { warm, cold });
        let flags = Flags { idle_warm: Some(IdleSetting::Never), ..Flags::default() };
        assert_eq!(idle(text, flags), IdlePolicy { warm: Some(IdleLimit::Never), cold });
        let flags = Flags { idle_cold: Some(IdleSetting::Default), ..Flags::default() };
        assert_eq!(idle(text, flags), IdlePolicy { warm, cold: None });
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        for (text, wrong, line) in [
            ("\ndata_dri = '/d'", "data_dri", "line 2"),
            ("[sandbox]\nmemory = 1", "memory", "line 2"),
            ("[limits]\njson_body_kb = 'x'", "json_body_kb", "line 2"),
            ("[sandbox]\nidle_warm_sec = 0", "seconds from 1 to", "line 2"),
            ("[sandbox]\nidle_cold_sec = '5m'", "seconds from 1 to", "line 2"),
        ] {
            let error = config(text, Flags::default()).unwrap_err();
            assert!(error.contains(wrong) && error.contains(line), "{error}");
            assert!(error.contains("/c.toml"), "{error}");
        }
    }

    #[test]
    fn what_others_can_reach_is_encrypted_unless_somebody_says_otherwise() {
        let tls = |text: &str, flags| config(text, flags).map(|config| config.tls);
        assert_eq!(tls("", Flags::default()), Ok(TlsSource::Off));
        for address in ["0.0.0.0:80", "192.168.1.2:80", "[::]:80"] {
            let text = format!("listen = '{address}'");
            assert_eq!(tls(&text, Flags::default()), Ok(TlsSource::LocalCa));
            let error = tls(&format!("{text}\ntls = 'off'"), Flags::default()).unwrap_err();
            assert!(error.contains("insecure_listen = true"), "{error}");
            let plain = format!("{text}\ninsecure_listen = true");
            assert_eq!(tls(&plain, Flags::default()), Ok(TlsSource::Off));
            let flags = Flags { insecure_listen: true, ..Flags::default() };
            assert_eq!(tls(&text, flags), Ok(TlsSource::Off));
            let files = format!("{text}\ntls_cert = '/c'\ntls_key = '/k'");
            let expected = TlsSource::Files { cert: "/c".into(), key: "/k".into() };
            assert_eq!(tls(&files, Flags::default()), Ok(expected));
        }
        assert!(tls("tls_key = '/k'", Flags::default()).unwrap_err().contains("certificate"));
    }

    #[test]
    fn acme_is_for_a_listener_that_wants_it() {
        let acme = |text: &str| config(text, Flags::default()).map(|config| config.acme);
        assert_eq!(acme(""), Ok(None));
        let table = "[acme]\nagree_to_terms = true\nnames = ['box.example']";
        let api = acme(&format!("tls = 'acme'\n{table}")).unwrap().unwrap();
        assert_eq!((api.wanted.len(), api.on_demand), (1, None));
        let public = format!("[public]\nlisten = '0.0.0.0:443'\nzone = 'pub.example'\n{table}");
        assert_eq!(acme(&public).unwrap().unwrap().on_demand.as_deref(), Some("pub.example"));
        assert!(acme("tls = 'acme'").unwrap_err().contains("[acme]"));
        assert!(acme(table).unwrap_err().contains("no listener"));
        let files = format!("{public}\n[public.x]");
        assert!(acme(&files).is_err());
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        for text in ["localhost", "127.0.0.1", ":8080", ""] {
            let flags = Flags { listen: Some(text.into()), ..Flags::default() };
            assert!(config("", flags).unwrap_err().contains("IP:PORT"), "{text}");
        }
    }
}
