//! Users, and what they may have.

use base::ids::{Name, UserId};
use net::{fabric::Caps, policy::Egress};
use serde::{Deserialize, Serialize};

use super::{IdleLimit, IdlePolicy};

/// A user of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its unique name.
    pub name: Name,
    /// Whether it may manage users.
    pub admin: bool,
    /// What it may have.
    pub limits: UserLimits,
    /// What holds for its sandboxes that do not say otherwise.
    pub idle: IdlePolicy,
    /// What its sandboxes may reach.
    pub network: UserNetwork,
    /// Unix seconds.
    pub created_at: i64,
}

/// What an admin says about the traffic of a user's sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNetwork {
    /// What none of them exceeds, whatever it says itself; nothing limits them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Egress>,
    /// What those may reach that do not say; the internet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Egress>,
    /// How fast each of them may be at most.
    #[serde(default)]
    pub caps: Caps,
}

/// What a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserLimits {
    /// Most sandboxes at a time, stopped ones included.
    pub sandboxes: u32,
    /// Most vCPUs in one sandbox.
    pub cpus_per_sandbox: u32,
    /// Most memory in one sandbox, MiB.
    pub memory_mib_per_sandbox: u64,
    /// Most named snapshots at a time.
    pub snapshots: u32,
    /// Largest sum of the sizes of its volumes, MiB.
    pub volume_mib: u64,
    /// Most backups of its volumes at a time, those that failed not counted.
    pub backups: u32,
}

impl Default for UserLimits {
    fn default() -> Self {
        Self {
            sandboxes: 5,
            cpus_per_sandbox: 4,
            memory_mib_per_sandbox: 4096,
            snapshots: 20,
            volume_mib: 100 << 10,
            backups: 200,
        }
    }
}

/// What changes about a user; absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserEdit {
    /// As in [`UserLimits::sandboxes`].
    pub sandboxes: Option<u32>,
    /// As in [`UserLimits::cpus_per_sandbox`].
    pub cpus_per_sandbox: Option<u32>,
    /// As in [`UserLimits::memory_mib_per_sandbox`].
    pub memory_mib_per_sandbox: Option<u64>,
    /// As in [`UserLimits::snapshots`].
    pub snapshots: Option<u32>,
    /// As in [`UserLimits::volume_mib`].
    pub volume_mib: Option<u64>,
    /// As in [`UserLimits::backups`].
    pub backups: Option<u32>,
    /// A new limit; the inner `None` takes the node's again.
    pub idle_warm: Option<Option<IdleLimit>>,
    /// A new limit; the inner `None` takes the node's again.
    pub idle_cold: Option<Option<IdleLimit>>,
    /// As in [`UserNetwork::ceiling`].
    pub ceiling: Option<Option<Egress>>,
    /// As in [`UserNetwork::default`].
    pub default_egress: Option<Option<Egress>>,
    /// As in [`UserNetwork::caps`].
    pub caps: Option<Caps>,
}
