//! `manifest.json`: what a stored directory holds, with a magic text, a format version and the
//! hash and size of every file.

use std::{
    io::{self, Read as _},
    ops::RangeInclusive,
    path::{Component, Path},
};

use base::hash;
use fs_err as fs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::DiskError;

/// The manifest's name in its directory.
pub(crate) const NAME: &str = "manifest.json";

/// No manifest is larger than this, in bytes; a longer file is not read.
const SIZE_MAX: u64 = 4 << 20;

/// A stored file: its path below the manifest's directory, its hash and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the directory of the manifest.
    pub path: String,
    /// SHA-256 of the content, lower-case hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

impl FileEntry {
    /// Hashes `path` below `directory`.
    pub(crate) fn of(directory: &Path, path: &str) -> io::Result<Self> {
        let full = directory.join(path);
        let size = fs::metadata(&full)?.len();
        Ok(Self { path: path.to_owned(), sha256: hash::file(&full)?, size })
    }

    /// Checks what is cheap to check: that the file is there and has its size.
    pub(crate) fn check_size(&self, directory: &Path) -> Result<(), DiskError> {
        let path = directory.join(&self.path);
        let size = fs::metadata(&path)?.len();
        if size == self.size {
            return Ok(());
        }
        let reason = format!("it has {size} bytes instead of {}", self.size);
        Err(DiskError::Damaged { path, reason })
    }

    /// Hashes the file again.
    pub(crate) fn verify(&self, directory: &Path) -> Result<(), DiskError> {
        self.check_size(directory)?;
        let path = directory.join(&self.path);
        let found = hash::file(&path)?;
        if found == self.sha256 {
            return Ok(());
        }
        let reason = format!("its sha256 is {found} instead of {}", self.sha256);
        Err(DiskError::Damaged { path, reason })
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    magic: String,
    format: u32,
    #[serde(flatten)]
    content: T,
}

/// Renders `content` with its magic text and format version.
pub(crate) fn render<T: Serialize>(magic: &str, format: u32, content: &T) -> io::Result<Vec<u8>> {
    let envelope = Envelope { magic: magic.to_owned(), format, content };
    let mut text = serde_json::to_vec_pretty(&envelope)?;
    text.push(b'\n');
    Ok(text)
}

/// Reads what [`render`] made.
pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    magic: &str,
    format: u32,
) -> Result<T, DiskError> {
    read_since(path, magic, format..=format)
}

/// Reads what [`render`] made, now or in an older version.
pub(crate) fn read_since<T: DeserializeOwned>(
    path: &Path,
    magic: &str,
    formats: RangeInclusive<u32>,
) -> Result<T, DiskError> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(SIZE_MAX).read_to_end(&mut text)?;
    let refused = |reason: String| DiskError::Manifest { path: path.to_owned(), reason };
    let envelope: Envelope<serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    if envelope.magic != magic {
        return Err(refused(format!("not a {magic} file")));
    }
    if !formats.contains(&envelope.format) {
        let (found, newest) = (envelope.format, formats.end());
        return Err(refused(format!("format {found}, where this version reads {newest}")));
    }
    serde_json::from_value(envelope.content).map_err(|error| refused(error.to_string()))
}

/// Whether a path can be joined to a directory without leaving it.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}
