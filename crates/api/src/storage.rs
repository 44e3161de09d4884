//! Room on the host's disk: `GET /system/df` and `POST /system/prune`, for admins.

use serde::{Deserialize, Serialize};

/// What the data directory takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// By kind.
    pub uses: Vec<StorageUse>,
    /// All of it, bytes; what kinds share counts once.
    pub bytes: u64,
    /// What is free on the file system, bytes.
    pub free_bytes: u64,
}

/// What one kind of thing takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageUse {
    /// `images`, `layers`, `templates`, `kernels`, `sandboxes`, `snapshots`, `volumes`, `backups` or `lost`.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// What they take, bytes; what two kinds share counts for both.
    pub bytes: u64,
    /// What of it a prune would free, bytes.
    pub reclaimable_bytes: u64,
}

/// Asks for the removal of what nobody needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Removes also templates that the next create would take, which is slow once then.
    #[serde(default)]
    pub all: bool,
    /// Only says what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// What was removed, or would be.
    pub removed: Vec<PrunedItem>,
    /// What that frees, bytes.
    pub bytes: u64,
    /// Whether nothing was removed because that was asked for.
    pub dry_run: bool,
}

/// Something that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedItem {
    /// As in [`StorageUse::kind`].
    pub kind: String,
    /// What it is called.
    pub name: String,
}
