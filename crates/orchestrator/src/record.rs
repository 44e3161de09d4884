//! What the store keeps of a sandbox: enough to take it up again after the daemon was killed.

use std::sync::Arc;

use base::ids::{Name, SandboxId, SnapshotId, UserId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::model::{Failure, Policy, SnapshotKind, Spec, StoppedBy, VolumeState};

/// One sandbox as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: SandboxId,
    /// Its owner.
    pub owner: UserId,
    /// Its name, unique among the owner's sandboxes.
    pub name: Name,
    /// What it is made of.
    pub spec: Arc<Spec>,
    /// What its owner says about its sleep.
    pub policy: Policy,
    /// Who the guest is told that it is.
    pub identity: Identity,
    /// A small number that no other living sandbox has; the VM's own uid follows from it.
    pub slot: u32,
    /// Where its network interface is.
    pub address: Address,
    /// Goes up by one with every change of state.
    pub generation: u64,
    /// What it is doing.
    pub state: State,
    /// Unix seconds.
    pub created_at: i64,
}

/// The numbers that the addresses of a sandbox's interface follow from; they stay the same for its whole
/// life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Address {
    /// Its owner's network.
    pub network: u16,
    /// Its number there, that no other living sandbox of its owner has.
    pub host: u16,
}

/// What makes a guest different from its siblings and stays the same for its whole life.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `/etc/machine-id`, 32 hexadecimal digits.
    pub machine_id: String,
    /// The secret that host and agent share, hexadecimal.
    pub token: String,
}

impl Identity {
    /// A new one.
    pub fn random() -> Self {
        Self { machine_id: base::random::hex::<16>(), token: base::random::hex::<32>() }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("machine_id", &self.machine_id).finish_non_exhaustive()
    }
}

/// Whom a guest believes itself to be that was copied from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likeness {
    /// The other's id.
    pub sandbox_id: SandboxId,
    /// The other's identity.
    pub identity: Identity,
}

/// The states that survive the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// A create is under way; found after a restart, what there is of it is removed.
    Creating,
    /// A VM exists.
    Running {
        /// The VM monitor's process id.
        pid: i32,
        /// Its start time, clock ticks after boot: with the pid, its identity.
        start_time: u64,
        /// Whether the vCPUs are paused.
        paused: bool,
    },
    /// No VM.
    Stopped {
        /// Unix seconds.
        since: i64,
        /// Who wanted that.
        #[serde(default)]
        by: StoppedBy,
    },
    /// The VM ended unasked.
    Failed(Failure),
    /// Being removed; found after a restart, the removal is finished.
    Destroying,
}

/// One named snapshot as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: SnapshotId,
    /// Its owner.
    pub owner: UserId,
    /// Its name, unique among the owner's snapshots.
    pub name: Name,
    /// What it holds.
    pub kind: SnapshotKind,
    /// The name that the sandbox had of which it was taken.
    pub source: Name,
    /// What a sandbox made of it is made of.
    pub spec: Arc<Spec>,
    /// Whom the guest in its memory believes itself to be.
    pub likeness: Likeness,
    /// Whether it can be used.
    pub state: SnapshotState,
    /// Unix seconds.
    pub created_at: i64,
}

/// One volume as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its id.
    pub id: VolumeId,
    /// Its owner.
    pub owner: UserId,
    /// Its name, unique among the owner's volumes.
    pub name: Name,
    /// How large it is for a guest, MiB. Its file system becomes as large when it is next mounted.
    pub size_mib: u64,
    /// Whether it can be used.
    pub state: VolumeState,
    /// Unix seconds.
    pub created_at: i64,
}

/// That a sandbox has a volume. Goes with the sandbox's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The volume.
    pub volume: VolumeId,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The sandbox's name.
    pub name: Name,
    /// Which of the sandbox's volumes it is.
    pub slot: u32,
    /// Where it is mounted.
    pub target: String,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

/// Where a snapshot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Being written; found after a restart, what there is of it is removed.
    Making,
    /// Whole.
    Ready,
    /// Being removed; found after a restart, the removal is finished.
    Removing,
}
