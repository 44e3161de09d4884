//! Where backups may be kept, by name.

use std::{collections::BTreeMap, path::PathBuf};

use backup::{
    Destination, DestinationError,
    folder::Folder,
    format::FormatError,
    s3::{S3, S3Config},
    seal::{KeyError, Recipients},
};

use crate::{Error, Kind, Result};

/// What an operator says of backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// Places by name.
    pub destinations: BTreeMap<String, DestinationSettings>,
    /// Which of them is taken if nobody says.
    pub default: Option<String>,
    /// Whom every backup is encrypted for, `age1…`; nobody if empty.
    pub recipients: Vec<String>,
}

/// A place for backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationSettings {
    /// A directory of this host, which has to be there.
    Folder(PathBuf),
    /// A bucket.
    S3(S3Config),
}

/// The same, ready for use.
#[derive(Debug)]
pub(crate) struct Places {
    destinations: BTreeMap<String, Destination>,
    default: Option<String>,
    recipients: Vec<String>,
}

impl Places {
    pub(super) fn open(settings: &BackupSettings) -> Result<Self> {
        let mut destinations = BTreeMap::new();
        for (name, wanted) in &settings.destinations {
            let destination = match wanted {
                DestinationSettings::Folder(root) => Destination::Folder(Folder::new(root.clone())),
                DestinationSettings::S3(config) => {
                    let s3 = S3::new(config).map_err(|error| {
                        let why = base::chain(&error);
                        let message = format!("backup.destinations.{name}: {why}");
                        Error::new(Kind::InvalidRequest, message)
                    })?;
                    Destination::S3(Box::new(s3))
                }
            };
            destinations.insert(name.clone(), destination);
        }
        let (default, recipients) = (settings.default.clone(), settings.recipients.clone());
        let places = Self { destinations, default, recipients };
        places.recipients(&[])?;
        if let Some(name) = &places.default {
            places.get(name)?;
        }
        Ok(places)
    }

    /// The name of the place that is meant.
    ///
    /// # Errors
    /// [`Kind::BackupUnconfigured`] if there is none.
    pub(crate) fn choose(&self, wanted: Option<&str>) -> Result<String> {
        let only = || match self.destinations.len() {
            1 => self.destinations.keys().next().map(String::as_str),
            _ => None,
        };
        let Some(name) = wanted.or(self.default.as_deref()).or_else(only) else {
            let message = match self.destinations.is_empty() {
                true => "this node has no place for backups",
                false => "it is not said which of several places for backups is meant",
            };
            return Err(Error::new(Kind::BackupUnconfigured, message)
                .hint("say which one with --to; an operator names them in [backup.destinations]"));
        };
        self.get(name)?;
        Ok(name.to_owned())
    }

    /// What they are called.
    pub(crate) fn names(&self) -> Vec<String> {
        self.destinations.keys().cloned().collect()
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Destination> {
        self.destinations.get(name).ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            let message = format!("no place for backups is called {shown:?}");
            let known: Vec<&str> = self.destinations.keys().map(String::as_str).collect();
            let hint = match known.is_empty() {
                true => "an operator names places in [backup.destinations]".to_owned(),
                false => format!("there is: {}", known.join(", ")),
            };
            Error::new(Kind::BackupUnconfigured, message).hint(hint)
        })
    }

    /// Whom a backup is for: those that are configured, and these.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] names what is no key.
    pub(crate) fn recipients(&self, wanted: &[String]) -> Result<Option<Recipients>> {
        let mut all: Vec<&String> = self.recipients.iter().chain(wanted).collect();
        all.sort();
        all.dedup();
        Recipients::parse(&all).map_err(|error| bad_key(&error))
    }
}

pub(super) fn bad_key(error: &KeyError) -> Error {
    Error::new(Kind::InvalidRequest, error.to_string())
        .hint("make a pair of keys with: age-keygen -o key.txt")
}

pub(super) fn kept_badly(error: DestinationError) -> Error {
    match error {
        DestinationError::Folder(cause) => {
            let kind = match cause.kind() {
                std::io::ErrorKind::StorageFull => Kind::HostDiskFull,
                _ => Kind::BackupStorageFailed,
            };
            // Where it is on the host is for the log, and not for everybody who has a volume.
            let message = format!("the directory for backups cannot be used: {}", cause.kind());
            Error::new(kind, message).caused_by(cause)
        }
        missing @ DestinationError::Missing(_) => {
            Error::new(Kind::BackupCorrupt, base::chain(&missing))
        }
        other => Error::new(Kind::BackupStorageFailed, base::chain(&other)),
    }
}

pub(super) fn read_badly(error: FormatError) -> Error {
    let message = base::chain(&error);
    match error {
        FormatError::Encrypted => Error::new(Kind::BackupLocked, message)
            .hint("give the file with the secret key: --identity key.txt"),
        FormatError::WrongIdentity => Error::new(Kind::BackupLocked, message),
        FormatError::Io(error) if error.kind() == std::io::ErrorKind::Other => {
            Error::new(Kind::BackupStorageFailed, message)
        }
        FormatError::Io(error) => error.into(),
        _ => Error::new(Kind::BackupCorrupt, message)
            .hint("restore another one; nothing was changed by this one"),
    }
}
