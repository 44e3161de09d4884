//! Backups of volumes: `/volumes/:name/backups`, `/volumes/:name/schedule`.
//!
//! * `GET /volumes/:name/backups` lists [`VolumeBackup`]s of volumes that have or had this name, `POST`
//!   takes a [`BackUpVolume`] and answers one when it is wholly where it is kept.
//! * `DELETE /volumes/:name/backups/:id` removes one and answers [`Deleted`](crate::Deleted).
//! * `POST /volumes/:name/backups/restore` takes a [`RestoreVolume`] and answers a
//!   [`Volume`](crate::Volume).
//! * `PUT /volumes/:name/schedule` takes a [`SetSchedule`] and answers a [`VolumeSchedule`], as `GET`
//!   does; `DELETE` answers 204.
//!
//! Both `POST`s send a line per [`BackupEvent`] with `Accept: application/x-ndjson`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Volume, text_enum::text_enum};

text_enum! {
    /// How far a backup is.
    pub enum BackupStatus {
        /// It is being made.
        Making = "making",
        /// It is made, and on its way to where it is kept.
        Sending = "sending",
        /// It is whole, and can be restored.
        Ready = "ready",
        /// There is none.
        Failed = "failed",
        /// It is being removed.
        Deleting = "deleting",
    }
}

/// A backup of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeBackup {
    /// `bak_` and twelve hexadecimal digits.
    pub id: String,
    /// The volume's id; the volume need not be there any more.
    pub volume_id: String,
    /// The volume's name when it was made.
    pub volume_name: String,
    /// The volume's size when it was made, MB.
    pub volume_size_mb: u64,
    /// Id of the owner.
    pub user_id: String,
    /// How far it is.
    pub status: BackupStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The name of the place where it is kept.
    pub destination: String,
    /// Under what it is kept there.
    pub key: String,
    /// Its length in bytes; 0 until it is made.
    pub size_bytes: u64,
    /// SHA-256 of it, hexadecimal; empty until it is made.
    pub sha256: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether a schedule had it made.
    pub scheduled: bool,
    /// When it was begun, RFC 3339.
    pub created_at: String,
}

/// Asks for a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackUpVolume {
    /// The name of the place where it is to be kept; the node's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whom it is encrypted for, `age1…`, besides whom the node's operator named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encrypt: Vec<String>,
}

/// Asks for what a volume held.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreVolume {
    /// The backup.
    pub backup_id: String,
    /// Name of a new volume. If absent, the volume of the name in the path gets the content, which no
    /// sandbox may have; if there is none, it is made.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub new_name: Option<String>,
    /// Secret keys that may open it, in the form of `age-keygen`; they are kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Without the keys.
impl fmt::Debug for RestoreVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreVolume")
            .field("backup_id", &self.backup_id)
            .field("new_name", &self.new_name)
            .finish_non_exhaustive()
    }
}

/// Asks for backups when it is time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSchedule {
    /// A cron expression of five fields, or six with seconds first.
    pub cron: String,
    /// The time zone that it is meant in, such as `Europe/Berlin`; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// The name of the place where backups are kept; the node's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whom they are encrypted for, `age1…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encrypt: Vec<String>,
    /// How many of the newest are kept. If all four are zero, all are kept.
    #[serde(default)]
    pub keep_last: u32,
    /// Of how many days the newest is kept.
    #[serde(default)]
    pub keep_daily: u32,
    /// Of how many weeks the newest is kept.
    #[serde(default)]
    pub keep_weekly: u32,
    /// Of how many months the newest is kept.
    #[serde(default)]
    pub keep_monthly: u32,
}

/// When a volume is backed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSchedule {
    /// As in [`SetSchedule`].
    pub cron: String,
    /// As in [`SetSchedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// As in [`SetSchedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// As in [`SetSchedule`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encrypt: Vec<String>,
    /// As in [`SetSchedule`].
    pub keep_last: u32,
    /// As in [`SetSchedule`].
    pub keep_daily: u32,
    /// As in [`SetSchedule`].
    pub keep_weekly: u32,
    /// As in [`SetSchedule`].
    pub keep_monthly: u32,
    /// When the next one is due, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// What went wrong the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What an admin wants to know of all users' backups: `GET /system/backups`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The names of the places where they may be kept.
    pub destinations: Vec<String>,
    /// How many volumes are backed up when it is time.
    pub schedules: usize,
    /// Schedules whose last run failed, or that cannot run any more.
    pub failures: Vec<ScheduleFailure>,
}

/// A schedule that does not do what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleFailure {
    /// The volume's name.
    pub volume: String,
    /// The owner's name.
    pub user: String,
    /// Why, for people.
    pub error: String,
}

/// One line of a backup or a restore that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BackupEvent {
    /// What is being done now.
    Progress {
        /// For people: a lower-case phrase such as `sending: 40 %`.
        message: String,
    },
    /// The backup is made; nothing follows.
    Backup(Box<VolumeBackup>),
    /// The volume is restored; nothing follows.
    Volume(Box<Volume>),
    /// It failed; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version, which means nothing to this one.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_and_never_shown() {
        let asked = RestoreVolume {
            backup_id: "bak_1".into(),
            new_name: Some("b".into()),
            identity: Some("AGE-SECRET".into()),
        };
        assert!(!format!("{asked:?}").contains("SECRET"));
        let json = r#"{"backup_id":"bak_1","as":"b","identity":"AGE-SECRET"}"#;
        assert_eq!(serde_json::to_string(&asked).unwrap(), json);
    }

    #[test]
    fn what_is_not_said_of_a_schedule_is_nothing() {
        let set: SetSchedule = serde_json::from_str(r#"{"cron":"@daily"}"#).unwrap();
        assert_eq!(set, SetSchedule { cron: "@daily".into(), ..SetSchedule::default() });
        assert!(serde_json::from_str::<SetSchedule>(r#"{"cron":"@daily","keep":1}"#).is_err());
    }
}
