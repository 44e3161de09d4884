//! Ports of the guest, how busy it is, and what can be told of it while it sleeps.

use serde::{Deserialize, Serialize};

use super::{JobInfo, SessionInfo};

/// A TCP port that something listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// The port.
    pub port: u16,
    /// The address that it is bound to, such as `0.0.0.0` or `::1`.
    pub address: String,
    /// Process id of who listens, if that can be told.
    #[serde(default)]
    pub pid: Option<i32>,
    /// Name of that process.
    #[serde(default)]
    pub process: Option<String>,
}

/// What is going on in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Commands in the foreground that run now.
    pub running: u32,
    /// Milliseconds since the last operation other than this question.
    pub idle_ms: u64,
    /// Sessions that have a client.
    #[serde(default)]
    pub attached: u32,
    /// Open connections to ports.
    #[serde(default)]
    pub tunnels: u32,
    /// Detached jobs that run and keep the sandbox awake.
    #[serde(default)]
    pub keep_awake: u32,
}

/// What runs in a guest that is about to sleep, for those who ask meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resting {
    /// As in [`Response::Sessions`](super::Response::Sessions).
    #[serde(default)]
    pub sessions: Vec<SessionInfo>,
    /// As in [`Response::Jobs`](super::Response::Jobs).
    #[serde(default)]
    pub jobs: Vec<JobInfo>,
    /// As in [`Response::Ports`](super::Response::Ports).
    #[serde(default)]
    pub ports: Vec<PortInfo>,
}
