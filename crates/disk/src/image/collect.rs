//! Removing what nobody needs, beside those who are making something.
//!
//! A layer is needed by an image that does not exist yet, and an image by a name or a row of a
//! database that comes last. So whoever makes one holds everything until it is done, and who
//! collects finds out what is used only once nobody does.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use base::files;
use fs_err as fs;
use rustix::fs::FlockOperation;

use super::{
    FORMAT, FORMAT_OLDEST, ImageError, MAGIC, Manifest, NAME_FORMAT, NAME_MAGIC, Pointer,
    content_directory, is_digest, known, names_directory, packed,
};
use crate::{layer, manifest, staging};

/// While it lives nothing is collected, by this process or another one.
#[derive(Debug)]
pub struct Hold {
    _lock: fs::File,
}

/// While it lives nobody can have a [`Hold`], and what is not used can be told.
#[derive(Debug)]
pub struct Collector {
    data: PathBuf,
    _lock: fs::File,
}

/// Keeps everything that is stored, and what is going to be, until it is dropped. Waits for a
/// collection that is under way.
///
/// # Errors
/// If the directory of images cannot be made or locked.
pub fn hold(data: &Path) -> io::Result<Hold> {
    let images = data.join("images");
    fs::create_dir_all(&images)?;
    Ok(Hold { _lock: staging::lock(&images, FlockOperation::LockShared)? })
}

/// The right to collect; `None` while somebody holds what there is. What is used has to be asked
/// after this and before [`Collector::collect`].
///
/// # Errors
/// If the directory of images cannot be made or locked.
pub fn collector(data: &Path) -> io::Result<Option<Collector>> {
    let images = data.join("images");
    fs::create_dir_all(&images)?;
    match staging::lock(&images, FlockOperation::NonBlockingLockExclusive) {
        Ok(lock) => Ok(Some(Collector { data: data.to_owned(), _lock: lock })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Something stored that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Its digest.
    pub digest: String,
    /// Its directory.
    pub path: PathBuf,
    /// Whether it is a layer, and not an image.
    pub layer: bool,
}

/// Whether layers are needed that only say once more what an image is, see [`super::packed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packings {
    /// As long as the image is.
    Kept,
    /// No: they can be packed again.
    Dropped,
}

impl Collector {
    /// The content that no name means and whose digest is not in `used`, and the layers that no other
    /// content has and that are not in `used`, either.
    ///
    /// # Errors
    /// If a name or what it means cannot be read: it could need anything.
    pub fn unused(
        &self,
        used: &HashSet<String>,
        packings: Packings,
    ) -> Result<Vec<Unused>, ImageError> {
        let names = names_directory(&self.data);
        let mut keep = used.clone();
        for name in known(&self.data)? {
            let pointer: Pointer = manifest::read(&names.join(name), NAME_MAGIC, NAME_FORMAT)?;
            keep.insert(pointer.sha256);
        }
        let (content, stored) = (content_directory(&self.data), layer::directory(&self.data));
        let (mut unused, mut layers) = (Vec::new(), used.clone());
        for digest in digests(&content)? {
            let path = content.join(&digest);
            if !keep.contains(&digest) {
                unused.push(Unused { digest, path, layer: false });
                continue;
            }
            let manifest = path.join(manifest::NAME);
            let manifest: Manifest =
                manifest::read_since(&manifest, MAGIC, FORMAT_OLDEST..=FORMAT)?;
            if packings == Packings::Kept {
                layers.extend(packed::layers_of(&self.data, &manifest).map(String::from));
            }
            layers.extend(manifest.layers.into_iter().map(|layer| layer.id.to_string()));
        }
        for digest in digests(&stored)?.into_iter().filter(|digest| !layers.contains(digest)) {
            unused.push(Unused { path: stored.join(&digest), digest, layer: true });
        }
        Ok(unused)
    }

    /// Removes the content that no name means and whose digest is not in `used`, and then the
    /// layers that no content has. Says how many images and layers that were.
    ///
    /// # Errors
    /// If a name or what is left cannot be read, in which case nothing is removed that it may
    /// need, or something cannot be removed.
    pub fn collect(self, used: &HashSet<String>) -> Result<(usize, usize), ImageError> {
        let (mut images, mut layers) = (0, 0);
        for unused in self.unused(used, Packings::Kept)? {
            files::remove_any(&unused.path)?;
            *(if unused.layer { &mut layers } else { &mut images }) += 1;
        }
        Ok((images, layers))
    }
}

/// Collects at once, if nobody holds what there is; says how many images went.
#[cfg(test)]
pub(crate) fn collect_garbage(data: &Path, used: &HashSet<String>) -> Result<usize, ImageError> {
    match collector(data)? {
        Some(collector) => Ok(collector.collect(used)?.0),
        None => Ok(0),
    }
}

/// What a directory has under names that are digests.
pub(super) fn digests(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut digests = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_digest(&name) {
            digests.push(name);
        }
    }
    Ok(digests)
}
