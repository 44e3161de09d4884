//! Volumes: `/volumes`, `/volumes/:name`, `/volumes/:name/{resize,snapshot}`.
//!
//! * `GET /volumes` lists [`Volume`]s by name, `POST` takes a [`CreateVolume`] and answers one.
//! * `GET /volumes/:name` is one, `DELETE` removes it and answers [`Deleted`](crate::Deleted).
//! * `POST /volumes/:name/resize` takes a [`ResizeVolume`], `POST /volumes/:name/snapshot` a
//!   [`CopyVolume`]; both answer a [`Volume`].
//!
//! A sandbox gets volumes when it is created: [`CreateSandbox::volumes`](crate::CreateSandbox::volumes).

use serde::{Deserialize, Serialize};

use crate::text_enum::text_enum;

text_enum! {
    /// Where a volume is in its life.
    pub enum VolumeStatus {
        /// It is being made.
        Creating = "creating",
        /// It can be used.
        Ready = "ready",
        /// It is being removed.
        Deleting = "deleting",
    }
}

/// A disk that outlives sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `vol_` and twelve hexadecimal digits.
    pub id: String,
    /// The name, unique among its owner's volumes.
    pub name: String,
    /// Where it is in its life.
    pub status: VolumeStatus,
    /// How large it is for a sandbox, in MB; this counts against its owner's limit.
    pub size_mb: u64,
    /// What it takes on disk in bytes, that included which it shares with clones and copies.
    pub size_bytes: u64,
    /// What deleting it would free, in bytes.
    pub own_bytes: u64,
    /// Which sandboxes have it: one that writes to it, or any number that read it.
    #[serde(default)]
    pub attachments: Vec<VolumeAttachment>,
    /// Id of the owner.
    pub created_by: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// A sandbox that has a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeAttachment {
    /// Its id.
    pub sandbox_id: String,
    /// Its name.
    pub sandbox: String,
    /// Where the volume is in it.
    pub mount: String,
    /// Whether it only reads.
    pub read_only: bool,
}

/// A volume of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxVolume {
    /// The volume's name.
    pub name: String,
    /// Where it is in the sandbox.
    pub mount: String,
    /// Whether the sandbox cannot write to it.
    pub read_only: bool,
    /// When the data were copied, RFC 3339: the sandbox is a fork or was made of a snapshot, and has
    /// them alone. What it writes never reaches the volume. Absent if it has the volume itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_at: Option<String>,
}

/// Asks for a volume in a new sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// Absolute path in the sandbox; the directory is made.
    pub mount: String,
    /// Whether the sandbox is only to read it, as others may at the same time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Asks for an empty volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// The name.
    pub name: String,
    /// Its size in MB.
    pub size_mb: u64,
}

/// Asks for a larger volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// Its size from then on, in MB.
    pub size_mb: u64,
}

/// Asks for a volume that holds what another one holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyVolume {
    /// The new volume's name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_default_is_not_sent_and_a_misspelt_field_is_named() {
        let mount = VolumeMount { name: "a".into(), mount: "/a".into(), read_only: false };
        assert_eq!(serde_json::to_string(&mount).unwrap(), r#"{"name":"a","mount":"/a"}"#);
        let error = serde_json::from_str::<CreateVolume>(r#"{"name":"a","size":1}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `size`"), "{error}");
        let attached = SandboxVolume {
            name: "a".into(),
            mount: "/a".into(),
            read_only: true,
            copied_at: None,
        };
        let json = r#"{"name":"a","mount":"/a","read_only":true}"#;
        assert_eq!(serde_json::to_string(&attached).unwrap(), json);
    }
}
