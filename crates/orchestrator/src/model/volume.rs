//! Volumes, and who has them.

use base::ids::{Name, SandboxId, UserId, VolumeId};
use serde::{Deserialize, Serialize};

/// A volume that a sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// Which it is.
    pub volume: VolumeId,
    /// What it is called.
    pub name: Name,
    /// Where it is mounted in the guest.
    pub target: String,
    /// Whether the guest cannot write to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// When its data was copied, Unix seconds: the sandbox is a copy itself and has them alone. Absent
    /// if it is attached to the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_at: Option<i64>,
}

/// Asks for a volume in a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// What it is called.
    pub name: String,
    /// Where it is to be mounted in the guest.
    pub target: String,
    /// Whether the guest is only to read it, as others may at the same time.
    pub read_only: bool,
}

/// A volume as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its id.
    pub id: VolumeId,
    /// Its name, unique among its owner's volumes.
    pub name: Name,
    /// Its owner.
    pub owner: UserId,
    /// How large it is for a guest, MiB.
    pub size_mib: u64,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Which sandboxes have it.
    pub attachments: Vec<AttachmentView>,
    /// What its files take on disk, those included that it shares, bytes.
    pub bytes: u64,
    /// What would be free if it were deleted, bytes.
    pub own_bytes: u64,
    /// Unix seconds.
    pub created_at: i64,
}

/// A sandbox that has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentView {
    /// Its id.
    pub sandbox: SandboxId,
    /// Its name.
    pub name: Name,
    /// Where the volume is mounted in it.
    pub target: String,
    /// Whether it only reads.
    pub read_only: bool,
}

/// Where a volume is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Being written; found after a restart, what there is of it is removed.
    Making,
    /// Whole.
    Ready,
    /// Being removed; found after a restart, the removal is finished.
    Removing,
}
