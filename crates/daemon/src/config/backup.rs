//! Where volumes are backed up to.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use fs_err as fs;
use orchestrator::backups::{BackupSettings, DestinationSettings, S3Config};
use serde::Deserialize;

use super::ConfigError;

/// Most bytes of a file with a key.
const KEY_MAX: u64 = 4096;

/// The table `[backup]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    default: Option<String>,
    #[serde(default)]
    recipients: Vec<String>,
    #[serde(default)]
    destinations: BTreeMap<String, RawDestination>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDestination {
    directory: Option<PathBuf>,
    endpoint: Option<String>,
    region: Option<String>,
    bucket: Option<String>,
    prefix: Option<String>,
    path_style: Option<bool>,
    access_key: Option<String>,
    access_key_file: Option<PathBuf>,
    secret_key: Option<String>,
    secret_key_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// Without the secret.
impl std::fmt::Debug for RawDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawDestination")
            .field("directory", &self.directory)
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

impl RawBackup {
    pub(super) fn resolve(self) -> Result<BackupSettings, ConfigError> {
        let mut destinations = BTreeMap::new();
        for (name, raw) in self.destinations {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
                let message = format!("{name:?} is no name for a destination");
                return Err(ConfigError::Backup(message));
            }
            let resolved = raw
                .resolve()
                .map_err(|why| ConfigError::Backup(format!("destinations.{name}: {why}")))?;
            destinations.insert(name, resolved);
        }
        if let Some(name) = self.default.as_ref().filter(|name| !destinations.contains_key(*name)) {
            let message = format!("default = {name:?} is not one of the destinations");
            return Err(ConfigError::Backup(message));
        }
        Ok(BackupSettings { destinations, default: self.default, recipients: self.recipients })
    }
}

impl RawDestination {
    fn resolve(self) -> Result<DestinationSettings, String> {
        match (self.directory.clone(), self.endpoint.is_some() || self.bucket.is_some()) {
            (Some(_), true) => Err("it is either a directory or a bucket, not both".to_owned()),
            (None, false) => Err("it needs a directory, or an endpoint and a bucket".to_owned()),
            (None, true) => self.s3().map(DestinationSettings::S3),
            (Some(directory), false) => match directory.is_absolute() {
                true => Ok(DestinationSettings::Folder(directory)),
                false => Err(format!("directory {} is not absolute", directory.display())),
            },
        }
    }

    fn s3(self) -> Result<S3Config, String> {
        let needs = |what: &str| format!("it needs {what}");
        Ok(S3Config {
            endpoint: self.endpoint.ok_or_else(|| needs("endpoint"))?,
            region: self.region.unwrap_or_else(|| "us-east-1".to_owned()),
            bucket: self.bucket.ok_or_else(|| needs("bucket"))?,
            prefix: self.prefix.unwrap_or_default(),
            path_style: self.path_style.unwrap_or(false),
            access_key: key("access_key", self.access_key, self.access_key_file.as_deref())?,
            secret_key: key("secret_key", self.secret_key, self.secret_key_file.as_deref())?,
            ca: self.ca,
        })
    }
}

/// What is said, or what the file holds.
fn key(name: &str, said: Option<String>, file: Option<&Path>) -> Result<String, String> {
    match (said, file) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_file are both there")),
        (None, None) => Err(format!("it needs {name} or {name}_file")),
        (Some(key), None) => Ok(key),
        (None, Some(path)) => {
            let mut text = String::new();
            let file = fs::File::open(path).map_err(|error| error.to_string())?;
            file.take(KEY_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
            Ok(text.trim().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<BackupSettings, String> {
        toml::from_str::<RawBackup>(text)
            .map_err(|error| error.to_string())?
            .resolve()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn destinations_are_directories_or_buckets() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "s3cret\n").unwrap();
        let text = format!(
            "default = 'disk'\n[destinations.disk]\ndirectory = '/srv/b'\n\
             [destinations.cloud]\nendpoint = 'https://s3.example'\nbucket = 'b'\n\
             access_key = 'A'\nsecret_key_file = '{}'\n",
            secret.display()
        );
        let found = settings(&text).unwrap();
        let disk = &found.destinations["disk"];
        assert_eq!(*disk, DestinationSettings::Folder("/srv/b".into()));
        let DestinationSettings::S3(cloud) = &found.destinations["cloud"] else { panic!() };
        assert_eq!((cloud.secret_key.as_str(), cloud.region.as_str()), ("s3cret", "us-east-1"));
        assert!(!format!("{found:?}").contains("s3cret"));
        assert_eq!(settings("").unwrap(), BackupSettings::default());
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, why) in [
            ("default = 'x'", "default = \"x\" is not one of the destinations"),
            ("[destinations.a]\ndirectory = 'b'", "destinations.a: directory b is not absolute"),
            ("[destinations.a]", "destinations.a: it needs a directory"),
            ("[destinations.a]\ndirectory = '/a'\nbucket = 'b'", "either a directory or a bucket"),
            ("[destinations.a]\nbucket = 'b'", "destinations.a: it needs endpoint"),
            (
                "[destinations.a]\nendpoint = 'https://a'\nbucket = 'b'\naccess_key = 'a'",
                "it needs secret_key or secret_key_file",
            ),
            ("[destinations.'a/b']\ndirectory = '/a'", "is no name for a destination"),
            ("[destinations.a]\ndirectroy = '/a'", "unknown field `directroy`"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
