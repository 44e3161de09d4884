//! Users and their keys, for administrators only: `/users`, `/users/:id`, `/users/:id/rotate-key`.

use serde::{Deserialize, Serialize};

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

/// The answer to the deletion of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDeleted {
    /// Always `deleted`.
    pub status: String,
    /// The user's id.
    pub id: String,
    /// The user's name.
    pub name: String,
}
