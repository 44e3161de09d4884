//! Users and their keys: `/users`, `/users/:id`, `/users/:id/rotate-key`. For administrators only,
//! but `GET /users/:id` of oneself, who is also `me`.

use serde::{Deserialize, Serialize};

use crate::{Egress, IdleSetting, IdleTime, NetworkLimits};

/// Somebody who owns sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// `usr_` and eight hexadecimal digits.
    pub id: String,
    /// The name, unique on the host.
    pub name: String,
    /// Whether the user may manage users and images.
    pub admin: bool,
    /// Most sandboxes at a time.
    pub max_sandboxes: u32,
    /// Most vCPUs of one sandbox.
    pub max_cpus_per_sandbox: u32,
    /// Most memory of one sandbox, in MB.
    pub max_memory_mb_per_sandbox: u64,
    /// Most named snapshots at a time.
    #[serde(default)]
    pub max_snapshots: u32,
    /// Largest sum of the sizes of all volumes, in MB.
    #[serde(default)]
    pub max_volume_mb: u64,
    /// Most backups of volumes at a time.
    #[serde(default)]
    pub max_backups: u32,
    /// Seconds of idleness after which the vCPUs of the user's sandboxes are paused that do not say
    /// otherwise; absent if the daemon's setting holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_warm_sec: Option<IdleTime>,
    /// Seconds of idleness, counted from the same moment, after which they go to disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cold_sec: Option<IdleTime>,
    /// What none of the user's sandboxes exceeds, whatever it says itself; absent if nothing limits
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// What those may reach that do not say; absent if that is the internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_egress: Option<Egress>,
    /// How fast each of them may be at most; absent if nothing limits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<NetworkLimits>,
    /// When the user was created, RFC 3339.
    pub created_at: String,
    /// How many sandboxes there are now.
    pub sandboxes: u32,
}

/// Asks for a user. What is absent gets the daemon's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The name.
    pub name: String,
    /// As in [`User::admin`].
    #[serde(default)]
    pub admin: bool,
    /// As in [`User::max_sandboxes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sandboxes: Option<u32>,
    /// As in [`User::max_cpus_per_sandbox`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpus_per_sandbox: Option<u32>,
    /// As in [`User::max_memory_mb_per_sandbox`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mb_per_sandbox: Option<u64>,
    /// As in [`User::max_snapshots`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_snapshots: Option<u32>,
    /// As in [`User::max_volume_mb`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_volume_mb: Option<u64>,
    /// As in [`User::max_backups`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backups: Option<u32>,
    /// As in [`User::idle_warm_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_warm_sec: Option<IdleSetting>,
    /// As in [`User::idle_cold_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cold_sec: Option<IdleSetting>,
    /// As in [`User::egress`]; the mode `default` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// As in [`User::default_egress`]; the mode `default` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_egress: Option<Egress>,
    /// As in [`User::network_limits`]; without a number it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<NetworkLimits>,
}

/// Asks for changes to a user. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditUser {
    /// As in [`User::max_sandboxes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sandboxes: Option<u32>,
    /// As in [`User::max_cpus_per_sandbox`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpus_per_sandbox: Option<u32>,
    /// As in [`User::max_memory_mb_per_sandbox`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mb_per_sandbox: Option<u64>,
    /// As in [`User::max_snapshots`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_snapshots: Option<u32>,
    /// As in [`User::max_volume_mb`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_volume_mb: Option<u64>,
    /// As in [`User::max_backups`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backups: Option<u32>,
    /// As in [`User::idle_warm_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_warm_sec: Option<IdleSetting>,
    /// As in [`User::idle_cold_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cold_sec: Option<IdleSetting>,
    /// As in [`User::egress`]; the mode `default` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// As in [`User::default_egress`]; the mode `default` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_egress: Option<Egress>,
    /// As in [`User::network_limits`]; without a number it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<NetworkLimits>,
}

/// A user with a new key. The key cannot be had again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserKey {
    /// The user.
    pub user: User,
    /// The key, for `Authorization: Bearer`.
    pub api_key: String,
}

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserKey").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The answer to the deletion of a user or of a named snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Always `deleted`.
    pub status: String,
    /// The id that it had.
    pub id: String,
    /// The name that it had, free again.
    pub name: String,
}
