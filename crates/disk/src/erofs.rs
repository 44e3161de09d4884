//! Read-only images: uncompressed, so that a sandbox's first read costs no decompression and all
//! sandboxes share the page cache, and the same bytes for the same tree. Trees of directories are
//! written by `mkfs.erofs`, those of layers by ourselves ([`tree`]).

mod directory;
mod format;
mod plan;
pub(crate) mod tree;

use std::path::Path;

use base::process::Command;

use crate::DiskError;

/// One fixed file system UUID: images are told apart by their hash.
const UUID: &str = "62686174-7469-4000-8000-000000000001";

/// What happens to the times and owners of the files.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    /// Every time is this, in seconds after 1970, and everything belongs to root.
    Fixed(i64),
    /// Times after this are set back to it, owners and extended attributes are kept.
    Clamped(i64),
}

/// Writes the tree below `from` to the new image `to`.
pub(crate) fn make(from: &Path, to: &Path, meta: Meta) -> Result<(), DiskError> {
    let (time, rest) = match meta {
        Meta::Fixed(time) => (time, "--all-root"),
        // After -T this turns "exactly" into "not later than" (erofs-utils 1.5).
        Meta::Clamped(time) => (time, "--preserve-mtime"),
    };
    Command::new("mkfs.erofs")
        .args(["--quiet", &format!("-T{time}"), &format!("-U{UUID}")])
        .arg(rest)
        .arg(to)
        .arg(from)
        .output()?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
