//! Named snapshots and copies: `/sandboxes/:id/{checkpoint,fork}`, `/snapshots`.
//!
//! * `POST /sandboxes/:id/checkpoint` takes a [`CreateSnapshot`] and answers [`SnapshotTaken`].
//! * `GET /snapshots` lists [`Snapshot`]s by name; `GET /snapshots/:name` is one, `DELETE` removes
//!   it and answers [`Deleted`](crate::Deleted).
//! * `POST /snapshots/:name/resume` takes a [`ResumeSnapshot`] and answers one
//!   [`Sandbox`](crate::Sandbox), or with `Accept: application/x-ndjson` a line per
//!   [`ProgressEvent`](crate::ProgressEvent).
//! * `POST /sandboxes/:id/fork` takes a [`ForkSandbox`] and answers an array of
//!   [`Sandbox`](crate::Sandbox)es.

use serde::{Deserialize, Serialize};

use crate::text_enum::text_enum;

/// Most copies of one fork.
pub const MAX_FORKS: u32 = 100;

text_enum! {
    /// What a snapshot holds.
    pub enum SnapshotType {
        /// Memory and disk: what is made of it goes on where the snapshot was taken.
        Memory = "memory",
        /// The disk: what is made of it boots.
        Disk = "disk",
    }
}

/// A named snapshot as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snap_` and twelve hexadecimal digits.
    pub id: String,
    /// The name, unique among its owner's snapshots.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: SnapshotType,
    /// The name that the sandbox had of which it was taken.
    pub source_sandbox: String,
    /// Id of the owner.
    pub created_by: String,
    /// The image of that sandbox.
    pub image: String,
    /// vCPUs of what is made of it.
    pub cpus: u32,
    /// Memory of what is made of it, in MB.
    pub memory_mb: u64,
    /// Size of the writable disk of what is made of it, in MB.
    pub disk_size_mb: u64,
    /// What it takes on disk in bytes, that included which it shares with others.
    pub size_bytes: u64,
    /// What deleting it would free, in bytes.
    pub own_bytes: u64,
    /// `size_bytes` in MB, rounded up.
    pub size_mb: u64,
    /// When it was taken, RFC 3339.
    pub created_at: String,
}

/// Asks for a snapshot of a sandbox, which goes on afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// The name.
    pub name: String,
    /// What it is to hold; memory and disk if absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<SnapshotType>,
}

/// A snapshot that was taken just now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotTaken {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// For how many milliseconds the sandbox stood still; absent if it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<f64>,
}

/// Asks for a sandbox made of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeSnapshot {
    /// The sandbox's name; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Asks for copies of a sandbox as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkSandbox {
    /// The copy's name, `NAME-1` to `NAME-count` if there are several; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many, 1 to [`MAX_FORKS`]; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str = concat!(
        r#"{"id":"snap_001122334455","name":"base","type":"memory","source_sandbox":"dev","#,
        r#""created_by":"usr_1","image":"minimal","cpus":1,"memory_mb":1024,"#,
        r#""disk_size_mb":8192,"size_bytes":1048577,"own_bytes":10,"size_mb":2,"#,
        r#""created_at":"t""#
    );

    #[test]
    fn a_snapshot_that_was_just_taken_also_says_what_it_cost() {
        let kept = format!("{SNAPSHOT}}}");
        let snapshot: Snapshot = serde_json::from_str(&kept).unwrap();
        assert_eq!(snapshot.kind, SnapshotType::Memory);
        assert_eq!(serde_json::to_string(&snapshot).unwrap(), kept);
        let taken = format!("{SNAPSHOT},\"paused_ms\":9.25}}");
        let read: SnapshotTaken = serde_json::from_str(&taken).unwrap();
        assert_eq!(read, SnapshotTaken { snapshot, paused_ms: Some(9.25) });
        assert_eq!(serde_json::to_string(&read).unwrap(), taken);
        let cold: SnapshotTaken = serde_json::from_str(&kept).unwrap();
        assert_eq!(cold.paused_ms, None);
        assert_eq!(serde_json::to_string(&cold).unwrap(), kept);
    }

    #[test]
    fn what_is_not_said_is_not_sent_and_a_misspelt_field_is_named() {
        let create = CreateSnapshot { name: "a".into(), kind: Some(SnapshotType::Disk) };
        assert_eq!(serde_json::to_string(&create).unwrap(), r#"{"name":"a","type":"disk"}"#);
        assert_eq!(serde_json::to_string(&ResumeSnapshot::default()).unwrap(), "{}");
        let fork = ForkSandbox { name: None, count: Some(3) };
        assert_eq!(serde_json::to_string(&fork).unwrap(), r#"{"count":3}"#);
        let error = serde_json::from_str::<CreateSnapshot>(r#"{"nmae":"a"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `nmae`"), "{error}");
    }
}
