//! The failures that every part of this crate shares.

use std::{io, path::PathBuf};

use base::process::ProcessError;

/// A failure below a kernel, image or disk operation.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A tool is missing or failed.
    #[error(transparent)]
    Tool(#[from] ProcessError),
    /// A manifest is unreadable or of another format.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A stored file is not what its manifest says.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
}

impl DiskError {
    /// Whether the host has no room left.
    pub fn is_disk_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io(error) if full.contains(&error.kind()))
    }

    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tool(error) => tool_hint(error),
            Self::Manifest { .. } | Self::Damaged { .. } => {
                Some("remove the directory that holds it and prepare it again".to_owned())
            }
            Self::Io(_) => None,
        }
    }
}

/// How to get a missing tool on Debian and Ubuntu.
pub(crate) fn tool_hint(error: &ProcessError) -> Option<String> {
    let ProcessError::Missing { program } = error else { return None };
    let package = match program.as_str() {
        "mkfs.erofs" => "erofs-utils",
        "mke2fs" => "e2fsprogs",
        "mmdebstrap" => "mmdebstrap",
        "depmod" => "kmod",
        "unshare" => "util-linux",
        "npm" => "npm",
        "dpkg-deb" | "dpkg-query" => "dpkg",
        "apt-get" | "apt-cache" => {
            return Some("this needs Debian or Ubuntu, or anything else that has apt".to_owned());
        }
        _ => return None,
    };
    Some(format!("apt-get install {package}"))
}
