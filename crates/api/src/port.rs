//! Ports of a sandbox.
//!
//! * `GET /sandboxes/:id/ports` lists what listens as [`Port`]s; `GET /ports` does so for all
//!   running sandboxes of the caller, without waking any.
//! * `GET /sandboxes/:id/ports/:port/tunnel` with `Connection: upgrade` and
//!   [`TUNNEL`](crate::headers::TUNNEL) becomes a byte stream to the port.
//! * `/sandboxes/:id/proxy/:port/…` passes HTTP requests and WebSockets on to the port.

use serde::{Deserialize, Serialize};

/// A TCP port that something in a sandbox listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port.
    pub container_port: u16,
    /// Path below the API's address under which HTTP requests reach it.
    pub proxy_url: String,
    /// The address that it is bound to in the sandbox.
    #[serde(default)]
    pub address: String,
    /// Name of the process that listens, if that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its process id in the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The sandbox, in a list over several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
}
