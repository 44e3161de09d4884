//! Backups of volumes: made, kept elsewhere, brought back, and made again when it is time.
//!
//! ```text
//! backups/<id>/ frozen/    links to the volume's layers; nobody writes to them any more
//!               backup     the stream made of them, as it will be kept
//!               journal    how far sending it has come
//! ```
//! A volume that is written to goes on with a new layer, as for a clone, with its file system frozen for
//! that moment; all the rest happens while the guest goes on. The row of a backup says how far it is:
//! `making` is begun anew by nobody, `sending` is gone on with by the next daemon.
//!
//! Invariant: a backup outlives its volume, and is good only once it is wholly where it is kept.

mod facade;
mod restore;
mod run;
mod scheduler;
mod settings;

use std::{collections::HashSet, sync::Mutex};

use base::ids::{BackupId, Name, UserId, VolumeId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

pub use backup::{retention::Keep, s3::S3Config};

pub use self::{
    facade::{BackupReport, BackupRequest, RestoreRequest, ScheduleFailure, ScheduleView},
    settings::{BackupSettings, DestinationSettings},
};
pub(crate) use self::{run::take_up, settings::Places};
use crate::Result;

/// Backups that are made and sent at the same time; others wait.
const AT_ONCE: usize = 2;

/// How far a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BackupState {
    /// It is being made.
    Making,
    /// It is made, and on its way.
    Sending,
    /// It is where it is kept, whole.
    Ready,
    /// There is none.
    Failed {
        /// Why, for people.
        message: String,
    },
    /// It is being removed.
    Removing,
}

/// A backup of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its id.
    pub id: BackupId,
    /// The volume, which need not be there any more.
    pub volume: VolumeId,
    /// Whose it is.
    pub owner: UserId,
    /// The volume's name when it was made.
    pub name: Name,
    /// The volume's size when it was made, MiB.
    pub size_mib: u64,
    /// The name of the place where it is kept.
    pub destination: String,
    /// Under what it is kept there.
    pub key: String,
    /// Its length, once it is made.
    pub bytes: u64,
    /// SHA-256 of it, hexadecimal, once it is made.
    pub sha256: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether a schedule had it made.
    pub scheduled: bool,
    /// How far it is.
    pub state: BackupState,
    /// Unix seconds.
    pub created_at: i64,
}

/// When and how a volume is backed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// A cron expression.
    pub cron: String,
    /// The time zone that it is meant in; UTC if absent.
    pub zone: Option<String>,
    /// Where backups are kept; the default place if absent.
    pub destination: Option<String>,
    /// Whom they are encrypted for, besides those that are configured.
    pub recipients: Vec<String>,
    /// Which are kept.
    pub keep: Keep,
}

/// A volume that is backed up when it is time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub volume: VolumeId,
    pub owner: UserId,
    pub plan: Plan,
    /// Up to when all that was due has been done, Unix seconds.
    pub looked_at: i64,
    /// What went wrong the last time.
    pub failure: Option<String>,
}

/// What all backups of a node share.
#[derive(Debug)]
pub(crate) struct Backups {
    pub places: Places,
    turns: Semaphore,
    /// Volumes whose schedule is at work.
    running: Mutex<HashSet<VolumeId>>,
    /// Told when schedules have changed, or one has done its work.
    news: Notify,
}

impl Backups {
    pub(crate) fn open(settings: &BackupSettings) -> Result<Self> {
        Ok(Self {
            places: Places::open(settings)?,
            turns: Semaphore::new(AT_ONCE),
            running: Mutex::default(),
            news: Notify::new(),
        })
    }
}
