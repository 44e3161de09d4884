//! Images that are not made of layers alone, as layers: their root, if a recipe made it, and what a sandbox
//! has written over it.
//!
//! ```text
//! images/content/<digest>/packed.json     which layers say the same
//! ```
//! Somebody else has to look into the root and the disk; here is kept what came of it, so that it is done once.
//! It is needed by nobody: without it, or without its layers, it is done again.

use std::path::Path;

use base::{fault, files};
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

pub(super) const PACKED: &str = "packed.json";
const PACKED_MAGIC: &str = "bhatti-image-packed";
const PACKED_FORMAT: u32 = 1;

/// The layers of an image, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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

    fn ids(self) -> impl Iterator<Item = LayerId> {
        self.root.into_iter().flatten().chain(self.disk)
    }
}

/// What is known of an image's layers. All that it names are stored. A root that another image has, too, is
/// known as well if it was packed for that one.
///
/// # Errors
/// If the directory of images cannot be read.
pub fn packed(data: &Path, image: &Image) -> Result<Packed, ImageError> {
    let stored = |id: &LayerId| layer::exists(data, id);
    let known = read(&image.directory);
    let disk = known.disk.filter(stored);
    if !image.layers.is_empty() {
        return Ok(Packed { root: Some(image.layers.clone()), disk });
    }
    let whole = |root: &Vec<LayerId>| root.iter().all(stored);
    let root = match known.root.filter(whole) {
        None => same_root(data, image)?.filter(whole),
        root => root,
    };
    Ok(Packed { root, disk })
}

/// What the root of `image` was packed to for another one that has the same.
fn same_root(data: &Path, image: &Image) -> Result<Option<Vec<LayerId>>, ImageError> {
    let content = content_directory(data);
    for digest in digests(&content)? {
        let directory = content.join(digest);
        let Some(root) = read(&directory).root else { continue };
        let other = directory.join(manifest::NAME);
        // One that is damaged says nothing.
        let other = manifest::read_since(&other, MAGIC, FORMAT_OLDEST..=FORMAT);
        let same = |other: &Manifest| other.root_digest() == image.manifest.root_digest();
        if other.is_ok_and(|other: Manifest| other.layers.is_empty() && same(&other)) {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

/// Keeps what an image was packed to.
///
/// The caller holds [`hold`] since the layers were added.
///
/// # Errors
/// [`ImageError::Layer`] if the layers do not fit together; if the disk fails. What was known before is
/// known then.
pub fn keep_packed(data: &Path, image: &Image, packed: &Packed) -> Result<(), ImageError> {
    let _hold = hold(data)?;
    let mut tree = Tree::new();
    for (number, id) in packed.clone().ids().enumerate() {
        tree.apply(number, Layer::open(data, &id)?.entries()?)?;
    }
    let text = manifest::render(PACKED_MAGIC, PACKED_FORMAT, packed)?;
    fault::point("image.packed")?;
    Ok(files::write_atomic(&image.directory.join(PACKED), &text, 0o600)?)
}

/// What was kept in a directory of content; nothing if that cannot be read.
fn read(directory: &Path) -> Packed {
    manifest::read(&directory.join(PACKED), PACKED_MAGIC, PACKED_FORMAT).unwrap_or_default()
}

/// The layers that content in a directory was packed to.
pub(super) fn layers_of(directory: &Path) -> impl Iterator<Item = LayerId> {
    read(directory).ids()
}

/// Removes what somebody who died has left of it.
///
/// # Errors
/// If a directory cannot be read or a file not removed.
pub(crate) fn sweep(data: &Path) -> std::io::Result<usize> {
    let content = content_directory(data);
    let digests = digests(&content)?;
    // While somebody keeps something, what looks left behind may be his.
    let alone = if digests.is_empty() { None } else { collector(data)? };
    let mut removed = 0;
    for digest in alone.iter().flat_map(|_| &digests) {
        removed += files::sweep_temporary(&content.join(digest))?;
    }
    Ok(removed)
}
