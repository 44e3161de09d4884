//! Who the guest is, and who asks.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// See [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version that the host speaks; both sides then use the lower one.
    pub version: u16,
    /// HMAC over the guest's preamble nonce, proving that the host holds the sandbox's token;
    /// absent when the host means to give an identity to a blank agent.
    pub proof: Option<String>,
    /// Clock and randomness for a guest that slept, brought up to date before it answers, so that
    /// waking takes one round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
}

/// Everything that makes one sandbox different from its siblings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identify {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The guest's host name.
    pub hostname: String,
    /// 32 hexadecimal digits for `/etc/machine-id`.
    pub machine_id: String,
    /// The secret, as hexadecimal, with which host and agent prove themselves from now on.
    pub token: String,
    /// Variables that every command in the sandbox sees.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What its image says about processes, where neither the sandbox nor a request does.
    #[serde(default, skip_serializing_if = "Defaults::are_none")]
    pub defaults: Defaults,
    /// Its network interface's addresses; absent if it has no interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// Clock and randomness.
    pub refresh: Refresh,
}

/// What an image says about the processes of sandboxes that are made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// Variables; the sandbox's own and those of a request go before them.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whom commands run as: `USER`, `UID`, `USER:GROUP` or `UID:GID`; uid 1000 if absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Where commands and sessions start; made if it is missing.
    #[serde(default)]
    pub working_dir: Option<String>,
}

impl Defaults {
    /// Whether the image says nothing.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a guest's network interface is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its own address.
    pub address: Ipv4Addr,
    /// How many bits of it are the network's.
    pub prefix: u8,
    /// Where everything goes that is not for the network.
    pub gateway: Ipv4Addr,
    /// Who knows the addresses of names.
    pub name_server: Ipv4Addr,
}

impl std::fmt::Debug for Identify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identify").field("sandbox_id", &self.sandbox_id).finish_non_exhaustive()
    }
}

/// What any guest needs after its memory was restored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// Wall-clock time, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// 32 fresh random bytes as hexadecimal; credited, and the generator is reseeded.
    pub seed: String,
}

impl std::fmt::Debug for Refresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresh").field("time_ns", &self.time_ns).finish_non_exhaustive()
    }
}

/// See [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The newest protocol version that the agent speaks.
    pub version: u16,
    /// The agent's own version, for people.
    pub agent: String,
    /// The sandbox that this guest is; absent before it was told.
    pub sandbox_id: Option<String>,
    /// HMAC over the host's preamble nonce; absent from a blank agent.
    pub proof: Option<String>,
    /// Detached jobs that run now and keep the sandbox awake. The host watches them only if there
    /// are any.
    #[serde(default)]
    pub keep_awake: u32,
}
