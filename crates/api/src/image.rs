//! Images that sandboxes are made of: `/images`, `/images/:name`, `/images/:name/{share,export}`,
//! `/images/pull`, `/images/import`, and what goes on by itself meanwhile: `/tasks/:id`.
//!
//! A pull answers [`PullStarted`], or with `Accept: application/x-ndjson` a line per [`PullEvent`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, text_enum::text_enum};

text_enum! {
    /// Why somebody may use an image.
    pub enum ImageScope {
        /// It is his.
        Own = "own",
        /// Its owner shares it with him.
        Shared = "shared",
        /// Everybody may.
        Global = "global",
    }
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What [`CreateSandbox::image`](crate::CreateSandbox::image) names.
    pub name: String,
    /// Size on the host's disk in MB; layers that other images have too are counted.
    pub size_mb: u64,
    /// SHA-256 of the content, as hexadecimal.
    pub digest: String,
    /// Where it came from.
    pub source: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Why the caller may use it.
    #[serde(default = "global")]
    pub scope: ImageScope,
    /// Name of its owner, if it is shared with the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What it was pulled from, if it was.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What an image was before there were others.
fn global() -> ImageScope {
    ImageScope::Global
}

/// One image in full: `GET /images/:name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDetails {
    /// What every image says.
    #[serde(flatten)]
    pub image: Image,
    /// What it says about processes.
    #[serde(default)]
    pub config: ImageConfig,
    /// SHA-256 of its layers' uncompressed archives, lowest first; none if it is not made of layers.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Packages that it was made of, with their versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Names of the caller's sandboxes that were made of this content.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Names of the users that may use it besides its owner; told to the owner.
    #[serde(default)]
    pub shared_with: Vec<String>,
}

/// What an image says about the processes of sandboxes made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whom commands run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where they start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The program that runs from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program if there is no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Ports that it says it listens on, such as `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What its program is told to end by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// What it was made for, such as `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// Asks for an image of a registry: `POST /images/pull`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// What to pull, such as `debian:12` or `ghcr.io/owner/image@sha256:…`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Its name here; follows from the reference if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `USER:PASSWORD` or `USER:TOKEN` for the registry; nobody if absent. Not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// Whether everybody may use it; for admins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
}

impl std::fmt::Debug for PullImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reference, name, auth, global } = self;
        let auth = auth.as_ref().map(|_| "…");
        f.debug_struct("PullImage")
            .field("reference", reference)
            .field("name", name)
            .field("auth", &auth)
            .field("global", global)
            .finish()
    }
}

/// Asks for an image of what is on a sandbox's disk: `POST /sandboxes/:id/save-image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveImage {
    /// What it is to be called.
    pub name: String,
}

/// A pull has begun and goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullStarted {
    /// Where it is looked at and cancelled: `/tasks/:id`.
    pub task_id: String,
    /// What it is doing.
    pub status: TaskStatus,
}

/// One line of a pull that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PullEvent {
    /// The first line: under which id the pull goes on, whoever watches it.
    Task {
        /// The id.
        task_id: String,
    },
    /// What is being done now.
    Progress {
        /// For people: a lower-case phrase.
        message: String,
        /// How much of it is done, bytes.
        #[serde(default)]
        done_bytes: u64,
        /// How much there is, if it is known, bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_bytes: Option<u64>,
    },
    /// It is done; nothing follows.
    Result {
        /// The image.
        image: Box<Image>,
    },
    /// It failed; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version, which means nothing to this one.
    #[serde(other)]
    Unknown,
}

text_enum! {
    /// Where a task is.
    pub enum TaskStatus {
        /// It goes on.
        Running = "running",
        /// It is done.
        Completed = "completed",
        /// It failed; see [`Task::error`].
        Failed = "failed",
        /// Somebody cancelled it.
        Cancelled = "cancelled",
    }
}

/// Something that goes on by itself: `GET /tasks/:id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// What kind it is: `image_pull`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    pub status: TaskStatus,
    /// What it is doing, or did last, for people.
    pub progress: String,
    /// How much of that is done, bytes.
    #[serde(default)]
    pub done_bytes: u64,
    /// How much there is, if it is known, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Image>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
}

/// Lets others use an image: `POST /images/:name/share`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareImage {
    /// Names or ids of users.
    pub users: Vec<String>,
}

/// Who may use an image besides its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageShares {
    /// The image.
    pub image: String,
    /// Names of users.
    pub shared_with: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_daemon_says_of_an_image_is_understood() {
        let old = r#"{"name":"minimal","size_mb":1,"digest":"0","source":"s","created_at":"t"}"#;
        let image: Image = serde_json::from_str(old).unwrap();
        assert_eq!((image.scope, image.owner, image.reference), (ImageScope::Global, None, None));
        let details: ImageDetails = serde_json::from_str(old).unwrap();
        assert_eq!(details.config, ImageConfig::default());
    }

    #[test]
    fn a_password_for_a_registry_is_not_shown() {
        let json = r#"{"ref":"x/y:1","auth":"user:hidden"}"#;
        let pull: PullImage = serde_json::from_str(json).unwrap();
        assert_eq!(pull.reference, "x/y:1");
        assert!(!format!("{pull:?}").contains("hidden"));
        assert_eq!(serde_json::to_string(&pull).unwrap(), json);
    }

    #[test]
    fn lines_of_a_pull_have_the_documented_shape() {
        let lines = [
            r#"{"type":"task","task_id":"task_0"}"#,
            r#"{"type":"progress","message":"fetching","done_bytes":1,"total_bytes":2}"#,
            r#"{"type":"progress","message":"waiting","done_bytes":0}"#,
        ];
        for line in lines {
            let event: PullEvent = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
        let newer: PullEvent = serde_json::from_str(r#"{"type":"applause"}"#).unwrap();
        assert_eq!(newer, PullEvent::Unknown);
    }
}
