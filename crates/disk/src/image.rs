//! Base images: read-only root file systems that sandboxes share.
//!
//! ```text
//! images/content/<digest>/manifest.json
//!                         root.erofs      all of the image, or the tree of one made of layers
//! images/layers/<id>/                     contents of files, see [`crate::layer`]
//! images/names/<name>                     which content the name means
//! images/packed/<digest>                  see [`packed()`]
//! ```
//!
//! An image made of layers is a tree whose files point into the data of its layers: the root disk
//! is the concatenation of [`Image::files`]. The digest is the hash of root.erofs if that is all
//! there is, otherwise of what the image was made of.
//!
//! Replacing an image writes new content and then turns the name to it in one step. The old
//! content stays under its hash, so running sandboxes keep it, stopped ones and templates find it
//! again with [`open_digest`], and a failure harms nobody. A [`Collector`] finds what has
//! neither a name nor a user.

mod assemble;
mod bootstrapped;
mod busybox;
pub(crate) mod collect;
mod config;
mod naming;
pub(crate) mod packed;
mod recipe;
mod saved;
mod tiers;
mod tree;

use std::{
    io,
    path::{Path, PathBuf},
};

use base::{
    clock,
    ids::{InvalidName, Name},
};
use fs_err as fs;
use serde::{Deserialize, Serialize};

pub use self::{
    assemble::assemble,
    collect::{Collector, Hold, Packings, Unused, collector, hold},
    config::Config,
    naming::{name, remove},
    packed::{Packed, keep_packed, packed},
    recipe::Recipe,
    saved::{configure, discard, save},
};
use crate::{
    AptError, DiskError, FileEntry, Listener,
    layer::{self, Layer, LayerError, LayerId},
    manifest, report,
    staging::Staging,
};

const MAGIC: &str = "bhatti-image";
const NAME_MAGIC: &str = "bhatti-image-name";
const FORMAT: u32 = 2;
/// Images of this format have no layers, and nothing else that the next one added.
const FORMAT_OLDEST: u32 = 1;
const NAME_FORMAT: u32 = 1;
const ROOT: &str = "root.erofs";

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no image of that name or digest.
    #[error("there is no image {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Packages cannot be had.
    #[error("get the image's packages")]
    Apt(#[from] AptError),
    /// Files of many owners can only be made by root.
    #[error("making the image {0} needs root")]
    NotRoot(&'static str),
    /// A layer is missing, or does not fit to those below it.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// It has too many layers.
    #[error("the image has {0} layers, more than the 127 that are allowed")]
    TooManyLayers(usize),
    /// A file operation or a tool failed, or something stored is damaged.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<io::Error> for ImageError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.into())
    }
}

impl From<base::process::ProcessError> for ImageError {
    fn from(error: base::process::ProcessError) -> Self {
        Self::Disk(error.into())
    }
}

impl ImageError {
    /// Whether the host has no room left.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Disk(error) | Self::Layer(LayerError::Disk(error)) => error.is_disk_full(),
            _ => false,
        }
    }

    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { known, .. } if known.is_empty() => {
                Some("no image has been made yet".to_owned())
            }
            Self::Unknown { known, .. } => Some(format!("there are: {}", known.join(", "))),
            Self::Apt(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::Layer(error) => error.hint(),
            Self::TooManyLayers(_) => Some("make the image again in fewer steps".to_owned()),
            Self::NotRoot(name) => Some(format!(
                "have root make it, then copy what it made: sudo bhatti image prepare {name}, and \
                 cp -r /var/lib/bhatti/images into your own data directory; without root there is \
                 bhatti image prepare busybox"
            )),
            Self::Name(_) => None,
        }
    }
}

/// A stored image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: Option<Name>,
    directory: PathBuf,
    files: Vec<PathBuf>,
    layers: Vec<LayerId>,
    disk: Option<SavedDisk>,
    manifest: Manifest,
}

/// What a sandbox had written when it was saved as an image: the writable disk that new sandboxes
/// of the image begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedDisk {
    /// Size of the disk in MiB.
    pub size_mib: u64,
    /// The lowest file: a raw ext4.
    pub raw: PathBuf,
    /// The qcow2 layers over it, lowest first.
    pub layers: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Manifest {
    /// The image's digest: SHA-256 of root.erofs, unless `root_sha256` says another one.
    sha256: String,
    /// Of root.erofs.
    size_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_sha256: Option<String>,
    /// Seconds since the Unix epoch.
    created_at: i64,
    /// Where it came from, for people.
    source: String,
    /// Packages with their versions, if it was made of packages.
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    config: Config,
    /// Lowest first.
    #[serde(default)]
    layers: Vec<UsedLayer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<SavedFiles>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UsedLayer {
    id: LayerId,
    /// Of its data, which is part of the root disk.
    data_bytes: u64,
    /// Of all of its files.
    stored_bytes: u64,
}

/// The files of a [`SavedDisk`], by their names in the image's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedFiles {
    size_mib: u64,
    raw: String,
    layers: Vec<String>,
    /// What they take, bytes.
    #[serde(default)]
    bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pointer {
    name: Name,
    sha256: String,
}

/// A root file system image that a recipe has written, and what is known about it.
struct Made {
    source: String,
    packages: Vec<String>,
}

impl Image {
    /// The name by which it was opened; `None` if it was opened by its digest.
    pub fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// The image's identity: 64 lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.manifest.sha256
    }

    /// The files whose concatenation, in this order, is the root disk: an erofs. Each has a
    /// multiple of 4096 bytes.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What the image says about processes.
    pub fn config(&self) -> &Config {
        &self.manifest.config
    }

    /// The layers that it was made of, lowest first; none if a recipe made it.
    pub fn layers(&self) -> &[LayerId] {
        &self.layers
    }

    /// The disk that a saved image has besides its root.
    pub fn disk(&self) -> Option<&SavedDisk> {
        self.disk.as_ref()
    }

    /// What it takes on the disk, in bytes, with layers that other images may have too.
    pub fn size(&self) -> u64 {
        let mut layers: Vec<_> = self.manifest.layers.iter().collect();
        layers.sort_by_key(|layer| &layer.id);
        layers.dedup_by_key(|layer| &layer.id);
        let layers: u64 = layers.iter().map(|layer| layer.stored_bytes).sum();
        let disk = self.manifest.disk.as_ref().map_or(0, |disk| disk.bytes);
        self.manifest.size_bytes + layers + disk
    }

    /// When it was made, in seconds since the Unix epoch.
    pub fn created_at(&self) -> i64 {
        self.manifest.created_at
    }

    /// Where it came from, for people.
    pub fn source(&self) -> &str {
        &self.manifest.source
    }

    /// The packages in it with their versions, `name=version`.
    pub fn packages(&self) -> &[String] {
        &self.manifest.packages
    }
}

pub(crate) fn content_directory(data: &Path) -> PathBuf {
    data.join("images/content")
}

pub(crate) fn names_directory(data: &Path) -> PathBuf {
    data.join("images/names")
}

/// Makes the image of `recipe` and gives it the recipe's name, which may have meant another
/// image before.
///
/// # Errors
/// If a tool, the network or the disk fails. Nothing half-made stays behind, and the name keeps
/// its old meaning.
pub fn prepare(data: &Path, recipe: Recipe, progress: Listener<'_>) -> Result<Image, ImageError> {
    let content = content_directory(data);
    let work = Staging::inside(&content)?;
    let result = Staging::inside(&content)?;
    let root = result.path().join(ROOT);
    let made = recipe.make(work.path(), &root, progress)?;
    drop(work);

    report(progress, "hashing and storing the image");
    let file = FileEntry::of(result.path(), ROOT)?;
    let manifest = Manifest {
        sha256: file.sha256.clone(),
        size_bytes: file.size,
        created_at: clock::unix_seconds(),
        source: made.source,
        packages: made.packages,
        ..Manifest::default()
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(result.path().join(manifest::NAME), text)?;

    // Until it has a name it must not be collected.
    let _hold = hold(data)?;
    let target = content.join(&file.sha256);
    if !target.exists() {
        result.commit(&target)?;
    }
    let new: Name = recipe.name().parse()?;
    name(data, &new, &file.sha256)?;
    open(data, new.as_str())
}

/// The image that `name` means now.
///
/// # Errors
/// [`ImageError::Unknown`] if there is none, [`ImageError::Disk`] if it is damaged.
pub fn open(data: &Path, name: &str) -> Result<Image, ImageError> {
    let name: Name = name.parse()?;
    let path = names_directory(data).join(name.as_str());
    if !path.exists() {
        return Err(ImageError::Unknown { name: name.to_string(), known: known(data)? });
    }
    let pointer: Pointer = manifest::read(&path, NAME_MAGIC, NAME_FORMAT)?;
    let image = open_digest(data, &pointer.sha256)?;
    Ok(Image { name: Some(name), ..image })
}

/// The image with that digest, whether or not a name still means it.
///
/// # Errors
/// As [`open`].
pub fn open_digest(data: &Path, digest: &str) -> Result<Image, ImageError> {
    let directory = content_directory(data).join(digest);
    if !is_digest(digest) || !directory.is_dir() {
        return Err(ImageError::Unknown { name: digest.to_owned(), known: known(data)? });
    }
    let path = directory.join(manifest::NAME);
    let manifest: Manifest = manifest::read_since(&path, MAGIC, FORMAT_OLDEST..=FORMAT)?;
    if manifest.sha256 != digest {
        let reason = "it describes another directory".to_owned();
        return Err(DiskError::Manifest { path, reason }.into());
    }
    entry(&manifest).check_size(&directory)?;
    Ok(Image {
        name: None,
        files: root_files(data, &directory, &manifest)?,
        layers: manifest.layers.iter().map(|layer| layer.id.clone()).collect(),
        disk: saved_disk(&directory, &path, &manifest)?,
        directory,
        manifest,
    })
}

/// What the root disk consists of: the tree, then each layer that has data, once.
fn root_files(
    data: &Path,
    directory: &Path,
    manifest: &Manifest,
) -> Result<Vec<PathBuf>, DiskError> {
    let mut files = vec![directory.join(ROOT)];
    for layer in manifest.layers.iter().filter(|layer| layer.data_bytes > 0) {
        let path = layer::data_file(data, &layer.id);
        if files.contains(&path) {
            continue;
        }
        let size = fs::metadata(&path)?.len();
        if size != layer.data_bytes {
            let reason = format!("it has {size} bytes instead of {}", layer.data_bytes);
            return Err(DiskError::Damaged { path, reason });
        }
        files.push(path);
    }
    Ok(files)
}

fn saved_disk(
    directory: &Path,
    path: &Path,
    manifest: &Manifest,
) -> Result<Option<SavedDisk>, DiskError> {
    let Some(saved) = &manifest.disk else { return Ok(None) };
    if !std::iter::once(&saved.raw).chain(&saved.layers).all(|name| manifest::is_inside(name)) {
        let reason = "a file of its disk is somewhere else".to_owned();
        return Err(DiskError::Manifest { path: path.to_owned(), reason });
    }
    let layers = saved.layers.iter().map(|name| directory.join(name)).collect();
    Ok(Some(SavedDisk { size_mib: saved.size_mib, raw: directory.join(&saved.raw), layers }))
}

/// The images that have a name, by name. Damaged ones are left out.
///
/// # Errors
/// If the directory of names cannot be read.
pub fn list(data: &Path) -> Result<Vec<Image>, ImageError> {
    Ok(known(data)?.iter().filter_map(|name| open(data, name).ok()).collect())
}

/// Hashes the image's files again, those of its layers too.
///
/// # Errors
/// [`DiskError::Damaged`] if they are not what they were.
pub fn verify(image: &Image) -> Result<(), DiskError> {
    entry(&image.manifest).verify(&image.directory)?;
    let Some(data) = image.directory.ancestors().nth(3) else { return Ok(()) };
    for id in &image.layers {
        match Layer::open(data, id) {
            Ok(layer) => layer.verify()?,
            Err(LayerError::Disk(error)) => return Err(error),
            Err(error) => {
                let path = layer::data_file(data, id);
                return Err(DiskError::Damaged { path, reason: error.to_string() });
            }
        }
    }
    Ok(())
}

impl Manifest {
    /// SHA-256 of root.erofs.
    fn root_digest(&self) -> &str {
        self.root_sha256.as_ref().unwrap_or(&self.sha256)
    }
}

fn entry(manifest: &Manifest) -> FileEntry {
    let sha256 = manifest.root_digest().to_owned();
    let size = manifest.size_bytes;
    FileEntry { path: ROOT.to_owned(), sha256, size }
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn known(data: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(names_directory(data)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Temporary names begin with a dot, which no name does.
        if name.parse::<Name>().is_ok() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
