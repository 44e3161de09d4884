//! Images that are not made of layers alone, as layers: their root, if a recipe made it, and what a sandbox
//! has written over it.
//!
//! ```text
//! images/packed/<digest>     which layer says the same: as that root, or as the disk of that image
//! ```
//! Somebody else has to look into a root or a disk; here is kept what came of it, so that it is done once.
//! Nobody needs it: without it, or without its layer, it is done again.

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use base::{fault, files};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT, FORMAT_OLDEST, Image, ImageError, MAGIC, Manifest,
    collect::{collector, digests, hold},
    content_directory,
};
use crate::{
    layer::{self, Layer, LayerId},
    manifest,
    merge::Tree,
};

const PACKED_MAGIC: &str = "bhatti-image-packed";
const PACKED_FORMAT: u32 = 1;

/// The layers of an image, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Of its root, lowest first; absent if that has not been packed.
    pub root: Option<Vec<LayerId>>,
    /// What its disk holds over the root; absent if it has none or that has not been packed.
    pub disk: Option<LayerId>,
}

impl Packed {
    /// All layers of `image`, lowest first; `None` if a part of it has not been packed.
    pub fn whole(&self, image: &Image) -> Option<Vec<LayerId>> {
        let mut layers = self.root.clone()?;
        if image.disk().is_some() {
            layers.push(self.disk.clone()?);
        }
        Some(layers)
    }
}

/// What is kept of something that was packed.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    layer: LayerId,
}

/// What is known of an image's layers. All that it names are stored.
pub fn packed(data: &Path, image: &Image) -> Packed {
    let known = |digest: &str| read(data, digest).filter(|id| layer::exists(data, id));
    let root = match image.layers.is_empty() {
        true => known(image.manifest.root_digest()).map(|layer| vec![layer]),
        false => Some(image.layers.clone()),
    };
    Packed { root, disk: image.disk.as_ref().and_then(|_| known(image.digest())) }
}

/// Keeps what an image was packed to. Its root need not be packed again for another that has the same.
///
/// The caller holds [`hold`] since the layers were added.
///
/// # Errors
/// [`ImageError::Layer`] if the layers do not fit together; if the disk fails. What was known before is
/// known then.
pub fn keep_packed(data: &Path, image: &Image, packed: &Packed) -> Result<(), ImageError> {
    let _hold = hold(data)?;
    let mut tree = Tree::new();
    for (number, id) in packed.root.iter().flatten().chain(&packed.disk).enumerate() {
        tree.apply(number, Layer::open(data, id)?.entries()?)?;
    }
    fs::create_dir_all(directory(data))?;
    if let (true, Some([root])) = (image.layers.is_empty(), packed.root.as_deref()) {
        keep(data, image.manifest.root_digest(), root)?;
    }
    if let Some(disk) = &packed.disk {
        keep(data, image.digest(), disk)?;
    }
    Ok(())
}

fn keep(data: &Path, digest: &str, layer: &LayerId) -> Result<(), ImageError> {
    let text = manifest::render(PACKED_MAGIC, PACKED_FORMAT, &Kept { layer: layer.clone() })?;
    fault::point("image.packed")?;
    Ok(files::write_atomic(&directory(data).join(digest), &text, 0o600)?)
}

/// What was kept; nothing if it cannot be read.
fn read(data: &Path, digest: &str) -> Option<LayerId> {
    let path = directory(data).join(digest);
    let kept = manifest::read::<Kept>(&path, PACKED_MAGIC, PACKED_FORMAT);
    Some(kept.ok()?.layer)
}

fn directory(data: &Path) -> PathBuf {
    data.join("images/packed")
}

/// What parts of an image are kept under, if they are packed.
fn names(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let root = manifest.layers.is_empty().then(|| manifest.root_digest());
    root.into_iter().chain(manifest.disk.as_ref().map(|_| manifest.sha256.as_str()))
}

/// The layers that an image was packed to, as far as it had none.
pub(super) fn layers_of(data: &Path, manifest: &Manifest) -> impl Iterator<Item = LayerId> {
    names(manifest).filter_map(|digest| read(data, digest))
}

/// Removes what is kept of images that are gone, and what somebody who died has left.
///
/// # Errors
/// If a directory cannot be read or a file not removed.
pub(crate) fn sweep(data: &Path) -> std::io::Result<usize> {
    let directory = directory(data);
    let kept = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    // While somebody keeps something, what looks left behind may be his.
    let Some(_alone) = collector(data)? else { return Ok(0) };
    let content = content_directory(data);
    let mut needed = HashSet::new();
    for digest in digests(&content)? {
        let path = content.join(digest).join(manifest::NAME);
        // Of one that is damaged nothing can be given out.
        if let Ok(manifest) = manifest::read_since(&path, MAGIC, FORMAT_OLDEST..=FORMAT) {
            needed.extend(names(&manifest).map(str::to_owned));
        }
    }
    let mut removed = 0;
    for entry in kept {
        let entry = entry?;
        if !needed.contains(entry.file_name().to_string_lossy().as_ref()) {
            files::remove_any(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
