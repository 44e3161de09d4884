//! Images that sandboxes are made of: `GET /images`.

use serde::{Deserialize, Serialize};

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What [`CreateSandbox::image`](crate::CreateSandbox::image) names.
    pub name: String,
    /// Size on the host's disk in MB.
    pub size_mb: u64,
    /// SHA-256 of the content, as hexadecimal.
    pub digest: String,
    /// Where it came from.
    pub source: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
}
