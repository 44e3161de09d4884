//! Images from Dockerfiles: `POST /images/build`.
//!
//! The body is of the type [`BUILD_TAR`](crate::headers::BUILD_TAR): a line with a [`BuildImage`], then the
//! context, a tar archive. The answer is a line per [`BuildEvent`]; whoever closes the connection cancels
//! the build.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Payload};

/// Asks for an image that a Dockerfile describes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// What it will be called. An earlier build of that name is replaced.
    pub name: String,
    /// The Dockerfile itself.
    pub dockerfile: String,
    /// What it is called in messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Build arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// The stage to build; the last one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether every step is done again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// Number of vCPUs for the steps; 2 if absent, or as many as the caller may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory for the steps in MB; 2048 if absent, or as much as the caller may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Size of the writable disk in MB; every sandbox's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size_mb: Option<u64>,
}

/// One line of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BuildEvent {
    /// A step begins, or was found in the cache.
    Step {
        /// Which, counted from 1.
        number: usize,
        /// How many there are.
        total: usize,
        /// What it says.
        text: String,
        /// Whether nothing had to be done.
        #[serde(default)]
        cached: bool,
    },
    /// What is done for the step now.
    Progress {
        /// For people: a lower-case phrase.
        message: String,
    },
    /// Something that people should know and that is no error.
    Notice {
        /// For people.
        message: String,
    },
    /// Bytes from a command's standard output.
    Stdout(Payload),
    /// Bytes from a command's standard error.
    Stderr(Payload),
    /// It is done; nothing follows.
    Result(BuiltImage),
    /// It failed; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version, which means nothing to this one.
    #[serde(other)]
    Unknown,
}

impl BuildEvent {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Result(_) | Self::Error(_))
    }
}

/// What came of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltImage {
    /// The image's name.
    pub name: String,
    /// Which content that is, 64 hexadecimal digits.
    pub digest: String,
    /// Size on the host's disk in MB; what other images have too is counted.
    pub size_mb: u64,
    /// How many steps there were.
    pub steps: usize,
    /// How many of them were found in the cache.
    pub cached: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_build_have_the_documented_shape() {
        for line in [
            r#"{"type":"step","number":1,"total":2,"text":"FROM a","cached":true}"#,
            r#"{"type":"progress","message":"recording a template"}"#,
            r#"{"type":"notice","message":"Dockerfile:2: ONBUILD has no effect"}"#,
            r#"{"type":"stdout","data":"a\n"}"#,
            r#"{"type":"result","name":"a","digest":"00","size_mb":1,"steps":2,"cached":1}"#,
        ] {
            let event: BuildEvent = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
        let newer: BuildEvent = serde_json::from_str(r#"{"type":"applause"}"#).unwrap();
        assert_eq!(newer, BuildEvent::Unknown);
        let least: BuildImage = serde_json::from_str(r#"{"name":"a","dockerfile":"b"}"#).unwrap();
        assert_eq!(
            least,
            BuildImage { name: "a".into(), dockerfile: "b".into(), ..BuildImage::default() }
        );
    }
}
