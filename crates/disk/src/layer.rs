//! Layers of images, as registries and archives bring them: what one step of making an image
//! added, changed and removed.
//!
//! ```text
//! images/layers/<diff-id>/manifest.json
//!                         index     the entries, whiteouts among them
//!                         small     contents of small files, without gaps
//!                         data      contents of all others, each at a boundary of 4096 bytes
//! ```
//! The diff-id is the SHA-256 of the uncompressed archive. `data` becomes a part of the root disk
//! of each image that has the layer ([`crate::image::Image::files`]), so it is stored once.
//!
//! Layers come from strangers. Invariant: no name of an archive becomes a path of the host. An
//! archive is read in one pass into the four files above and its entries stay bytes in them;
//! everything that has a length is bounded ([`Limits`]).

mod archive;
mod entries;
mod error;
mod export;
mod header;
pub(crate) mod index;
mod input;
pub(crate) mod outer;
pub(crate) mod path;
mod pax;
mod scan;
mod store;
mod zstd;

use std::{
    fmt,
    io::{Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use base::{fault, files};
use fs_err as fs;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

pub(crate) use self::error::shown;
use self::{archive::Archive, index::Entry, input::Input};
pub use self::{
    error::LayerError,
    scan::{Scan, Scanned},
};
use crate::{
    DiskError, FileEntry, manifest,
    staging::{self, Staging},
};

const MAGIC: &str = "bhatti-layer";
const FORMAT: u32 = 1;
const INDEX: &str = "index";
const SMALL: &str = "small";
const DATA: &str = "data";

/// The SHA-256 of a layer's uncompressed archive: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

impl LayerId {
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LayerId {
    type Err = LayerError;

    /// The digits, with or without `sha256:` before them.
    fn from_str(text: &str) -> Result<Self, LayerError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if crate::image::is_digest(digits) {
            Ok(Self(digits.to_owned()))
        } else {
            Err(LayerError::BadId(shown(text.as_bytes())))
        }
    }
}

impl TryFrom<String> for LayerId {
    type Error = LayerError;

    fn try_from(text: String) -> Result<Self, LayerError> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a layer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of names, link targets and extended attributes, of all entries together.
    pub name_bytes: u64,
}

impl Default for Limits {
    /// More than any image that is known to be in use has: 64 GiB, a million entries.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 1 << 20, name_bytes: 256 << 20 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    id: LayerId,
    entries: u64,
    files: Vec<FileEntry>,
}

/// A stored layer.
#[derive(Debug)]
pub(crate) struct Layer {
    directory: PathBuf,
    manifest: Manifest,
}

pub(crate) fn directory(data: &Path) -> PathBuf {
    data.join("images/layers")
}

/// Reads a layer into the store: a tar archive, plain or compressed by gzip or zstd, as its first
/// bytes say. `expected` is what it has to be; a layer that is stored is then read to its end, so
/// that a wrong one is told, and not stored again. Without `expected` an archive that just stops is
/// refused.
///
/// Somebody who adds layers for an image holds [`crate::image::hold`] until the image has a name or
/// an owner.
///
/// # Errors
/// If `layer` cannot be read, is damaged, is another one than expected, or has what no file system
/// may have or more than `limits`; if the store fails. Nothing of it stays behind then.
pub fn add(
    data: &Path,
    layer: &mut dyn Read,
    expected: Option<&LayerId>,
    limits: &Limits,
) -> Result<LayerId, LayerError> {
    let input = Input::new(layer, limits)?;
    if let Some(id) = expected
        && exists(data, id)
    {
        return agreed(Some(id), input.finish()?);
    }
    let layers = directory(data);
    let staging = Staging::inside(&layers)?;
    let mut archive = Archive::new(input, expected.is_some());
    let stored = store::write(&mut archive, staging.path(), limits)?;
    let id = agreed(expected, archive.finish()?)?;
    let manifest = Manifest { id: id.clone(), entries: stored.entries, files: stored.files };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(staging.path().join(manifest::NAME), text)?;
    fault::point("layer.commit")?;
    let target = layers.join(id.as_str());
    if target.exists() {
        // Only damage leaves less than all of it under its name. Nobody else replaces it now.
        let _alone = staging::lock(&layers, FlockOperation::LockExclusive)?;
        if !exists(data, &id) {
            files::remove_any(&target)?;
        }
    }
    // Who else is on this host may not read other people's images.
    staging.commit_private(&target)?;
    Ok(id)
}

fn agreed(expected: Option<&LayerId>, found: String) -> Result<LayerId, LayerError> {
    let found = LayerId(found);
    match expected {
        Some(expected) if *expected != found => {
            Err(LayerError::Digest { expected: expected.clone(), found })
        }
        _ => Ok(found),
    }
}

/// Whether the layer is stored, as far as can be told without reading all of it.
pub fn exists(data: &Path, id: &LayerId) -> bool {
    Layer::open(data, id).is_ok()
}

/// Writes a stored layer as an uncompressed tar archive: the same bytes each time, which need not
/// be those that it came from, so its diff-id may be another one.
///
/// # Errors
/// [`LayerError::Missing`] if it is not stored, [`LayerError::Sink`] if writing fails; if what is
/// stored is damaged.
pub fn export(data: &Path, id: &LayerId, to: &mut dyn Write) -> Result<(), LayerError> {
    export::write(&Layer::open(data, id)?, to)
}

/// The file with the contents of a layer's files.
pub(crate) fn data_file(data: &Path, id: &LayerId) -> PathBuf {
    directory(data).join(id.as_str()).join(DATA)
}

impl Layer {
    /// Opens what is stored, and checks that its files have their sizes.
    pub(crate) fn open(data: &Path, id: &LayerId) -> Result<Self, LayerError> {
        let directory = directory(data).join(id.as_str());
        if !directory.is_dir() {
            return Err(LayerError::Missing(id.clone()));
        }
        let path = directory.join(manifest::NAME);
        let manifest: Manifest = manifest::read(&path, MAGIC, FORMAT)?;
        let names = manifest.files.iter().map(|file| file.path.as_str());
        if manifest.id != *id || !names.eq([INDEX, SMALL, DATA]) {
            let reason = "it describes another directory".to_owned();
            return Err(DiskError::Manifest { path, reason }.into());
        }
        for file in &manifest.files {
            file.check_size(&directory)?;
        }
        Ok(Self { directory, manifest })
    }

    pub(crate) fn id(&self) -> &LayerId {
        &self.manifest.id
    }

    /// All of its entries, in the order of the archive.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, LayerError> {
        let path = self.directory.join(INDEX);
        let index = fs::read(&path)?;
        let damaged = |reason: &str| DiskError::Damaged { path, reason: reason.to_owned() };
        if base::hash::bytes(&index) != self.manifest.files[0].sha256 {
            return Err(damaged("its sha256 is another one than it was").into());
        }
        index::decode(&index).ok_or_else(|| damaged("it is no index").into())
    }

    /// The file with the contents of small files.
    pub(crate) fn small(&self) -> PathBuf {
        self.directory.join(SMALL)
    }

    /// The file with the contents of all others.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// The size of its data, in bytes.
    pub(crate) fn data_size(&self) -> u64 {
        self.manifest.files[2].size
    }

    /// What it takes on the disk, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.size).sum()
    }

    /// Hashes its files again.
    pub(crate) fn verify(&self) -> Result<(), DiskError> {
        self.manifest.files.iter().try_for_each(|file| file.verify(&self.directory))
    }
}

#[cfg(test)]
pub(crate) mod tests;
