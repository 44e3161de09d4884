//! What a job was and how it ended, next to its output.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::message::Exited;
use serde::{Deserialize, Serialize};

use super::log::make_directory;

const FILE: &str = "meta.json";
const TEMPORARY: &str = "meta.json.new";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) argv: Vec<String>,
    #[serde(default)]
    pub(super) pid: i32,
    #[serde(default)]
    pub(super) started_at: i64,
    #[serde(default)]
    pub(super) keep_awake: bool,
    #[serde(default)]
    pub(super) end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    #[serde(flatten)]
    pub(super) exited: Exited,
    pub(super) at: i64,
    pub(super) output_end: u64,
}

impl Meta {
    /// What is known of the job in `directory`; nothing if the file is missing or damaged.
    pub(super) fn read(directory: &Path) -> Self {
        let text = fs::read(directory.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces the file as a whole.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        let temporary = directory.join(TEMPORARY);
        let written = match fs::write(&temporary, &json) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(directory)?;
                fs::write(&temporary, &json)
            }
            other => other,
        };
        written.and_then(|()| fs::rename(&temporary, directory.join(FILE)))
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
