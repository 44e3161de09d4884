//! Named snapshots.

use std::time::Duration;

use base::ids::{Name, SnapshotId, UserId};
use serde::{Deserialize, Serialize};

use super::Spec;

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// Memory and disk: what is made of it goes on where the snapshot was taken.
    #[default]
    Memory,
    /// The disk: what is made of it boots.
    Disk,
}

/// A named snapshot as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// Its id.
    pub id: SnapshotId,
    /// Its name, unique among its owner's snapshots.
    pub name: Name,
    /// Its owner.
    pub owner: UserId,
    /// What it holds.
    pub kind: SnapshotKind,
    /// The name that the sandbox had of which it was taken.
    pub source: Name,
    /// What a sandbox made of it is made of.
    pub spec: Spec,
    /// What its files take on disk, those included that it shares, bytes.
    pub bytes: u64,
    /// What would be free if it were deleted, bytes.
    pub own_bytes: u64,
    /// Unix seconds.
    pub created_at: i64,
}

/// The outcome of taking a snapshot.
#[derive(Debug)]
pub struct SnapshotTaken {
    /// The snapshot.
    pub snapshot: SnapshotView,
    /// How long the sandbox stood still; absent if it did not run.
    pub stall: Option<Duration>,
}
