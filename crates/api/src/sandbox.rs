//! Sandboxes: `/sandboxes`, `/sandboxes/:id`, `/sandboxes/:id/{stop,start,pause,resume}`.
//!
//! `:id` is an id or a name; the daemon resolves it. Create and start answer one [`Sandbox`],
//! or with `Accept: application/x-ndjson` a line per [`ProgressEvent`]. `PATCH /sandboxes/:id`
//! takes an [`EditSandbox`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Egress, ErrorBody, IdleSetting, IdleTime, Network, NetworkLimits, SandboxVolume, VolumeMount,
    text_enum::text_enum,
};

text_enum! {
    /// Where a sandbox is in its life.
    pub enum Status {
        /// It is being made.
        Creating = "creating",
        /// It is being brought back.
        Starting = "starting",
        /// It answers, at once or after it was woken; see [`Thermal`].
        Running = "running",
        /// It is being put away.
        Stopping = "stopping",
        /// Its owner had it stopped and everything of it is on disk; the next command or file
        /// request wakes it.
        Stopped = "stopped",
        /// It could not go on; see [`Failure`].
        Failed = "failed",
    }
}

text_enum! {
    /// How near to running a running sandbox is.
    pub enum Thermal {
        /// Its vCPUs run.
        Hot = "hot",
        /// Its vCPUs are paused, its memory is in place.
        Warm = "warm",
        /// It is on disk, because it was idle; any request wakes it.
        Cold = "cold",
    }
}

text_enum! {
    /// What a start brought the sandbox back from.
    pub enum StartedFrom {
        /// Its saved memory: every process goes on.
        Snapshot = "snapshot",
        /// An earlier saved memory: everything later is lost.
        Previous = "previous",
        /// Its disk: the guest booted.
        Disk = "disk",
        /// Nothing had to be brought back: its memory was still in place.
        Memory = "memory",
    }
}

/// A sandbox as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// 16 hexadecimal digits.
    pub id: String,
    /// The name, unique among its owner's sandboxes.
    pub name: String,
    /// Where it is in its life.
    pub status: Status,
    /// How near to running it is; only while the status is `running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thermal: Option<Thermal>,
    /// The image that it was made of.
    pub image: String,
    /// vCPUs.
    pub cpus: u32,
    /// Memory in MB.
    pub memory_mb: u64,
    /// Size of the writable disk in MB, as the guest sees it.
    pub disk_size_mb: u64,
    /// Address in its owner's network, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// What it asks to reach beyond its owner's network; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Whether that is its user's default, because it says nothing itself.
    #[serde(default)]
    pub egress_by_default: bool,
    /// What it may reach in the end: as much of `egress` as its user's policy lets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_egress: Option<Egress>,
    /// Limits of its traffic that it has itself, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<NetworkLimits>,
    /// Limits that hold in the end, if there are any: the lower of its own and its user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_network_limits: Option<NetworkLimits>,
    /// Where the public finds its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<SandboxVolume>,
    /// The owner's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Id of the owner.
    pub created_by: String,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// When it was stopped, RFC 3339; only while the status is `stopped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// Engine and accelerator, such as `qemu/tcg`.
    pub engine: String,
    /// Why it failed; only while the status is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Grows with every change of state, so that a reader can tell which of two answers is newer.
    pub generation: u64,
    /// Size of its snapshot on disk in MB, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_size_mb: Option<u64>,
    /// What is going on in it; only while it is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Whether its owner wants it never to be put to sleep.
    #[serde(default)]
    pub keep_hot: bool,
    /// Seconds of idleness after which its vCPUs are paused, whoever set them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_warm_sec: Option<IdleTime>,
    /// Seconds of idleness, counted from the same moment, after which it goes to disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cold_sec: Option<IdleTime>,
    /// What it was brought back from; only in the answer to a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_from: Option<StartedFrom>,
}

/// What is going on in a sandbox. Everything but `idle_sec` keeps it awake.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Commands that somebody waits for.
    pub running: u32,
    /// Clients of its sessions.
    pub attached: u32,
    /// Open connections to its ports.
    pub tunnels: u32,
    /// File operations under way, watches included.
    pub files: u32,
    /// Detached jobs that were asked to keep it awake.
    pub jobs: u32,
    /// Seconds since the last of these or another operation ended; 0 while there is one.
    pub idle_sec: u64,
}

/// Why a sandbox could not go on, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, for people.
    pub cause: String,
    /// Whether a snapshot is there that it can be started from.
    pub can_resume_snapshot: bool,
    /// When that snapshot was taken, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_taken_at: Option<String>,
}

/// Asks for a sandbox. What is absent gets the daemon's default.
///
/// Answered with 201, or with 200 and [`EXISTING`](crate::headers::EXISTING) if a sandbox of that
/// name and specification exists; one of another specification is the error `name_taken`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSandbox {
    /// The name; `sandbox-` and six hexadecimal digits if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Size of the writable disk in MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size_mb: Option<u64>,
    /// Variables that every command in the sandbox sees.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What runs in it from the start, a line for its shell: the session named `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Whether that is started again when it has ended; `on-failure` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_restart: Option<RestartPolicy>,
    /// Whether the program that its image says does not run, either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_init: bool,
    /// Whether it has a network; that of its owner if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What it may reach beyond that; the internet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Limits of its traffic; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<NetworkLimits>,
    /// Volumes that it has, at most 8: each is written by one sandbox or read by any number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// Small files that are in it before `init` starts. Many or large ones are sent as a tar
    /// archive after this object; see [`CREATE_TAR`](crate::headers::CREATE_TAR).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<CreateFile>,
    /// Whether it is never put to sleep. This and the next two are no part of the specification.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_hot: bool,
    /// As in [`Sandbox::idle_warm_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_warm_sec: Option<IdleSetting>,
    /// As in [`Sandbox::idle_cold_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cold_sec: Option<IdleSetting>,
}

text_enum! {
    /// Whether what a sandbox was made to run is started again when it has ended.
    pub enum RestartPolicy {
        /// Never.
        No = "no",
        /// Unless it ended with 0.
        OnFailure = "on-failure",
        /// However it ended.
        Always = "always",
    }
}

/// A file of a new sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateFile {
    /// Absolute path in the sandbox.
    pub guest_path: String,
    /// The content in base64.
    pub content: String,
    /// Permission bits in octal; `0644` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// What a start may be told to bring the sandbox back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// Its saved memory, and nothing else.
    Snapshot,
    /// The memory saved before that, if it was kept, and the disk as it was then.
    Previous,
    /// Its disk, giving up the saved memory.
    Disk,
}

/// Asks for a start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartSandbox {
    /// Where from; whatever keeps most if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StartFrom>,
}

/// Asks for changes to a sandbox. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditSandbox {
    /// A new name. The guest keeps its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is never put to sleep; true wakes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_hot: Option<bool>,
    /// As in [`Sandbox::idle_warm_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_warm_sec: Option<IdleSetting>,
    /// As in [`Sandbox::idle_cold_sec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_cold_sec: Option<IdleSetting>,
    /// What it may reach from now on, in place of what was said before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Limits of its traffic from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<NetworkLimits>,
    /// Labels to add or to replace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels_add: BTreeMap<String, String>,
    /// Keys of labels to remove; that there is none of a key is no error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels_remove: Vec<String>,
}

/// The answer to a deletion: VM, disk and snapshots are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// Always `destroyed`.
    pub status: String,
    /// The id that it had.
    pub id: String,
    /// The name that it had, free again.
    pub name: String,
    /// What did not go as it should have, though the sandbox is gone: what was written last to a volume
    /// may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// One line of a create, start or stop that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProgressEvent {
    /// What is being done now.
    Progress {
        /// For people: a lower-case phrase such as `booting the guest`.
        message: String,
    },
    /// It is done; nothing follows.
    Result {
        /// The sandbox as it is now.
        sandbox: Box<Sandbox>,
        /// Whether a create found the sandbox there already. The header of a stream is sent before
        /// that is known.
        #[serde(default)]
        existing: bool,
    },
    /// It failed; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version, which means nothing to this one.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_stay_absent_and_a_misspelt_one_is_named() {
        let create = CreateSandbox { name: Some("dev".into()), ..CreateSandbox::default() };
        assert_eq!(serde_json::to_string(&create).unwrap(), r#"{"name":"dev"}"#);
        let error = serde_json::from_str::<CreateSandbox>(r#"{"memory":512}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `memory`"), "{error}");
    }

    #[test]
    fn a_status_of_a_newer_daemon_is_kept() {
        let status: Status = serde_json::from_str("\"migrating\"").unwrap();
        assert_eq!(status, Status::Unknown("migrating".into()));
        assert_eq!(serde_json::to_string(&status).unwrap(), "\"migrating\"");
        assert_eq!(serde_json::to_string(&StartFrom::Disk).unwrap(), "\"disk\"");
    }

    #[test]
    fn an_edit_says_only_what_changes() {
        let edit = EditSandbox {
            keep_hot: Some(false),
            idle_warm_sec: Some(IdleSetting::After(90)),
            idle_cold_sec: Some(IdleSetting::Default),
            labels_remove: vec!["a".into()],
            ..EditSandbox::default()
        };
        let json = concat!(
            r#"{"keep_hot":false,"idle_warm_sec":90,"idle_cold_sec":"default","#,
            r#""labels_remove":["a"]}"#
        );
        assert_eq!(serde_json::to_string(&edit).unwrap(), json);
        assert_eq!(serde_json::from_str::<EditSandbox>(json).unwrap(), edit);
        assert_eq!(serde_json::to_string(&EditSandbox::default()).unwrap(), "{}");
        let error = serde_json::from_str::<EditSandbox>(r#"{"labels":{}}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `labels`"), "{error}");
    }

    #[test]
    fn progress_lines_have_the_documented_shape() {
        let line = r#"{"type":"progress","message":"booting the guest"}"#;
        let event: ProgressEvent = serde_json::from_str(line).unwrap();
        assert_eq!(event, ProgressEvent::Progress { message: "booting the guest".into() });
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
    }
}
