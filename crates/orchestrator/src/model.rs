//! What the orchestrator is asked for and what it shows.

mod idle;
mod snapshot;
mod user;
mod volume;

use std::collections::BTreeMap;

use base::ids::{Name, SandboxId, UserId};
use net::{fabric::Caps, policy::Egress};
use proto::message::{Init, RestartPolicy};
use serde::{Deserialize, Serialize};

pub use self::{
    idle::{IdleLimit, IdlePolicy, Policy, Sleeps, StoppedBy},
    snapshot::{SnapshotKind, SnapshotTaken, SnapshotView},
    user::{User, UserEdit, UserLimits, UserNetwork},
    volume::{AttachmentView, VolumeRequest, VolumeState, VolumeUse, VolumeView},
};
use crate::activity::ActivityView;

/// What a sandbox is made of; two creates with an equal specification mean the same sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Image name.
    pub image: Name,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// Size of the writable disk, MiB.
    pub disk_mib: u64,
    /// Variables that every command sees.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The owner's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What runs in it whenever it has booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSpec>,
    /// Whether the program of its image does not run, either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_init: bool,
    /// How it is connected.
    #[serde(default, skip_serializing_if = "NetworkSpec::is_default")]
    pub network: NetworkSpec,
    /// What volumes it has, by their slots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeUse>,
    /// Digest of the content that it is made of in place of an image, if it is a build's: nobody sees
    /// it, and it ends with the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
}

/// How a sandbox is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Whether it has no network at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Where it may connect to, within what its user may; what its user's sandboxes get by default
    /// if absent. Can be changed while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// How fast. Can be changed while it runs.
    #[serde(default)]
    pub caps: Caps,
}

impl NetworkSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a sandbox is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitSpec {
    /// A line for the guest's `/bin/sh -c`.
    pub command: String,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartPolicy,
}

impl From<&InitSpec> for Init {
    fn from(spec: &InitSpec) -> Self {
        Self { command: spec.command.clone(), argv: Vec::new(), restart: spec.restart }
    }
}

/// A create request before defaults and limits are applied.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Wanted name; one is made up if absent.
    pub name: Option<String>,
    /// Image name, or a reference to one that is pulled if it is not here; the default image if
    /// absent.
    pub image: Option<String>,
    /// Number of vCPUs; 1 if absent.
    pub cpus: Option<u32>,
    /// Guest memory, MiB; the default if absent.
    pub memory_mib: Option<u64>,
    /// Size of the writable disk, MiB; the default if absent.
    pub disk_mib: Option<u64>,
    /// Variables that every command sees.
    pub env: BTreeMap<String, String>,
    /// The owner's labels.
    pub labels: BTreeMap<String, String>,
    /// What it is to run.
    pub init: Option<InitSpec>,
    /// Whether the program of its image does not run, either.
    pub no_init: bool,
    /// When it may be put to sleep.
    pub policy: Policy,
    /// How it is connected.
    pub network: NetworkSpec,
    /// What volumes it is attached to.
    pub volumes: Vec<VolumeRequest>,
}

/// Whether a sandbox's VM exists, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being made.
    Creating,
    /// Being taken up after a restart of the daemon.
    Starting,
    /// There is a VM, running or paused.
    Running,
    /// No VM; everything is on disk.
    Stopped,
    /// The VM ended without being asked to; the owner decides how to go on.
    Failed,
    /// Being removed.
    Destroying,
}

/// How warm a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thermal {
    /// vCPUs run.
    Hot,
    /// In memory, vCPUs paused.
    Warm,
    /// On disk.
    Cold,
}

/// Why a sandbox failed and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, with what the VM monitor said last.
    pub cause: String,
    /// When the snapshot that can be resumed was taken, Unix seconds; absent if there is none.
    pub snapshot_taken_at: Option<i64>,
}

/// A sandbox as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxView {
    /// Its id.
    pub id: SandboxId,
    /// Its name, unique among its owner's sandboxes.
    pub name: Name,
    /// Its owner.
    pub owner: UserId,
    /// What it is made of.
    pub spec: Spec,
    /// Whether its VM exists.
    pub status: Status,
    /// How warm it is, while it is running or stopped.
    pub thermal: Option<Thermal>,
    /// Set while it is failed.
    pub failure: Option<Failure>,
    /// Goes up by one with every change of state.
    pub generation: u64,
    /// What its last snapshot takes on disk, bytes.
    pub snapshot_bytes: Option<u64>,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds, while it is stopped.
    pub stopped_at: Option<i64>,
    /// What is going on in it, as far as it keeps it awake.
    pub activity: ActivityView,
    /// What its owner says about its sleep.
    pub policy: Policy,
    /// What follows from that, from its owner's limits and from the node's.
    pub sleeps: Sleeps,
    /// Its address in its owner's network, if it has one.
    pub ip: Option<std::net::Ipv4Addr>,
}

/// Where a start takes the sandbox's state from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// It was running or paused in memory; nothing was read.
    Memory,
    /// Its memory snapshot: processes go on.
    Snapshot,
    /// The memory snapshot before that one, if it was kept: everything later is lost.
    Previous,
    /// A boot from its disk: files are there, processes are not.
    Disk,
}

/// Who wants something of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Whoever has its owner's key.
    Owner,
    /// Anybody who comes by a public address. Does not wake what its owner stopped.
    Public,
}

/// What changes about an existing sandbox; absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// A new name. The guest keeps its host name.
    pub name: Option<String>,
    /// Whether it is never put to sleep. Setting it wakes the sandbox.
    pub keep_hot: Option<bool>,
    /// A new limit; the inner `None` takes the wider one again.
    pub idle_warm: Option<Option<IdleLimit>>,
    /// A new limit; the inner `None` takes the wider one again.
    pub idle_cold: Option<Option<IdleLimit>>,
    /// What it may reach from now on; the inner `None` takes its user's default again.
    pub egress: Option<Option<Egress>>,
    /// Limits of its traffic from now on.
    pub caps: Option<Caps>,
    /// Labels to add or replace.
    pub labels_add: BTreeMap<String, String>,
    /// Labels to remove; that one is not there is no error.
    pub labels_remove: Vec<String>,
}

/// Asks for copies of a living sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForkRequest {
    /// The copy's name; `NAME-1` to `NAME-count` if there are several. One is made up if absent.
    pub name: Option<String>,
    /// How many.
    pub count: u32,
}
