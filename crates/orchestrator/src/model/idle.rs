//! When sandboxes are put to sleep.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a sandbox may be idle before something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleLimit {
    /// So many seconds.
    After(u64),
    /// Without end.
    Never,
}

/// What its owner, or an admin for a user, says about idleness. What is absent is taken from the
/// next wider one: sandbox, user, node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdlePolicy {
    /// When idle vCPUs are paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<IdleLimit>,
    /// When an idle sandbox goes to disk, counted from the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<IdleLimit>,
}

/// When a sandbox is put to sleep, counted from when it became idle; absent is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sleeps {
    /// When its vCPUs are paused.
    pub warm: Option<Duration>,
    /// When it goes to disk.
    pub cold: Option<Duration>,
}

/// What its owner says about one sandbox's sleep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether it is never put to sleep, whatever the limits say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_hot: bool,
    /// When it is put to sleep otherwise.
    #[serde(flatten)]
    pub idle: IdlePolicy,
}

/// Who had a sandbox stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// Its owner: it stays stopped until its owner starts or uses it.
    #[default]
    Owner,
    /// We, because it was idle: any request wakes it.
    Idleness,
}
