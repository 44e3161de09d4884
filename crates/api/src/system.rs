//! The daemon itself: `GET /health`, which needs no key.

use serde::{Deserialize, Serialize};

/// The daemon's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Time since the daemon started, such as `1h2m3s`.
    pub uptime: String,
    /// The daemon's version.
    pub version: String,
    /// The engine that new sandboxes get, such as `qemu`.
    pub engine: String,
    /// What runs the guest's instructions, such as `kvm` or `tcg`.
    pub accelerator: String,
    /// What stands ready for the next sandboxes.
    #[serde(default)]
    pub prestarted: Prestarted,
}

/// What stands ready before anybody needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prestarted {
    /// Guests that a create takes.
    pub guests: u32,
    /// Monitors that a wake, a fork or another create takes.
    pub monitors: u32,
}
