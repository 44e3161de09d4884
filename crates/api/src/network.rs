//! What sandboxes may reach, what they tried to, and the networks themselves:
//! `/sandboxes/:id/egress`, `/network`, `/network/repair`.

use serde::{Deserialize, Serialize};

use crate::text_enum::text_enum;

text_enum! {
    /// Whether a sandbox has a network.
    pub enum Network {
        /// That of its owner.
        User = "user",
        /// None.
        None = "none",
    }
}

text_enum! {
    /// What a sandbox may reach where nothing else is said.
    pub enum EgressMode {
        /// The internet.
        Open = "open",
        /// Nothing.
        Deny = "deny",
        /// What is on the list.
        Allowlist = "allowlist",
        /// In requests: what the next wider setting says, for a sandbox its user's default.
        Default = "default",
    }
}

/// What a sandbox may reach beyond its owner's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// What counts where nothing else is said.
    pub mode: EgressMode,
    /// Hosts of an allow-list: names, or `*.` and a domain for all below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_hosts: Vec<String>,
    /// Ranges that may be reached in every mode. Private ones only an admin may give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_cidrs: Vec<String>,
}

/// Most that a sandbox may send, and most that it may receive; absent is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkLimits {
    /// Bytes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
    /// Packets in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u32>,
}

/// The answer to `GET /sandboxes/:id/egress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressLog {
    /// What the sandbox tried to reach since it or the daemon started, the latest last. The same
    /// again is counted.
    pub attempts: Vec<EgressAttempt>,
    /// An allow-list that would have let all of it through that its user's policy does.
    pub suggested: Egress,
    /// What of it the user's policy does not let through, which only an admin can change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Egress>,
}

/// What a sandbox tried to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressAttempt {
    /// The last time, RFC 3339.
    pub last_at: String,
    /// How often.
    pub count: u64,
    /// `dns`, `tcp`, `udp`, `icmp`, or the protocol's number.
    pub protocol: String,
    /// The address; absent from questions to the name server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port, if the protocol has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The host, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether it was let through.
    pub allowed: bool,
    /// Why, a stable code.
    pub reason: String,
}

text_enum! {
    /// How a node connects its sandboxes.
    pub enum NetworkMode {
        /// To a network of each user with a way out through the host.
        Nat = "nat",
        /// To a network of each user without one.
        Isolated = "isolated",
        /// Not at all.
        Off = "off",
        /// To a network of each sandbox, made by its monitor: the daemon is not root.
        User = "user",
    }
}

/// The answer to `GET /network` and `POST /network/repair`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Whether there are networks now: they are made with the first sandbox.
    pub open: bool,
    /// What is not as it should be, or was not before a repair.
    pub findings: Vec<NetworkFinding>,
    /// How sandboxes are connected; absent from older daemons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// What sandboxes of mode `user` may reach at most; absent in other modes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_egress: Option<EgressMode>,
    /// The certificates that listeners show, and those that are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateState>,
}

/// A certificate that listeners show or should show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateState {
    /// Who shows it: `api`, `public`.
    pub listeners: Vec<String>,
    /// Where it comes from: `files`, `local-ca`, `acme`.
    pub source: String,
    /// Hosts that it is for; of `local-ca`, whose own certificate this is, none.
    pub names: Vec<String>,
    /// When it ends, RFC 3339; absent if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// Why there is none, or no newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When that is tried again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFinding {
    /// For people.
    pub message: String,
    /// Whether a repair mends it.
    pub mendable: bool,
}
