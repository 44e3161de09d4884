//! Disks that outlive the sandbox.

use serde::{Deserialize, Serialize};

/// One volume of a [`Request::MountVolumes`](super::Request::MountVolumes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountVolume {
    /// Which it is: its device says `bhatti-volume-<slot>` of itself.
    pub slot: u32,
    /// Where it is to be mounted, an absolute path. The directory is made if missing.
    pub target: String,
    /// Whether it may only be read.
    #[serde(default)]
    pub read_only: bool,
    /// How large it is, bytes. The device may look larger. The file system is made as large.
    pub bytes: u64,
}
