//! Base images: read-only root file systems that sandboxes share.
//!
//! ```text
//! images/content/<sha256>/manifest.json
//!                         root.erofs      uncompressed, its hash is the directory's name
//! images/names/<name>                     which content the name means
//! ```
//!
//! Replacing an image writes new content and then turns the name to it in one step. The old
//! content stays under its hash, so running sandboxes keep it, stopped ones and templates find it
//! again with [`open_digest`], and a failure harms nobody. [`collect_garbage`] removes what has
//! neither a name nor a user.

mod bootstrapped;
mod busybox;
mod tiers;
mod tree;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use base::{
    clock, files,
    ids::{InvalidName, Name},
};
use fs_err as fs;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{
    AptError, DiskError, FileEntry, Listener, manifest, report,
    staging::{self, Staging},
};

const MAGIC: &str = "bhatti-image";
const NAME_MAGIC: &str = "bhatti-image-name";
const FORMAT: u32 = 1;
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
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { known, .. } if known.is_empty() => {
                Some("no image has been made yet".to_owned())
            }
            Self::Unknown { known, .. } => Some(format!("there are: {}", known.join(", "))),
            Self::Apt(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::NotRoot(name) => Some(format!(
                "have root make it, then copy what it made: sudo bhatti image prepare {name}, and \
                 cp -r /var/lib/bhatti/images into your own data directory; without root there is \
                 bhatti image prepare busybox"
            )),
            Self::Name(_) => None,
        }
    }
}

/// An image that can be made from the distribution's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// A small Debian or Ubuntu, as the host's, with what people expect in a shell.
    Minimal,
    /// A statically linked busybox and nothing else.
    Busybox,
    /// `minimal` with systemd.
    Services,
    /// `minimal` with Node.js, npm, Python and a C compiler.
    Node,
    /// `services` with a Chromium that is driven through the DevTools protocol.
    Browser,
    /// `services` with Docker Engine.
    Docker,
    /// `services` with a desktop that is looked at through a web page.
    Computer,
}

impl Recipe {
    /// The name of the image that it makes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Busybox => "busybox",
            Self::Services => "services",
            Self::Node => "node",
            Self::Browser => "browser",
            Self::Docker => "docker",
            Self::Computer => "computer",
        }
    }

    fn make(self, work: &Path, image: &Path, progress: Listener<'_>) -> Result<Made, ImageError> {
        let tier = match self {
            Self::Busybox => return busybox::make(work, image, progress),
            Self::Minimal => &tiers::MINIMAL,
            Self::Services => &tiers::SERVICES,
            Self::Node => &tiers::NODE,
            Self::Browser => &tiers::BROWSER,
            Self::Docker => &tiers::DOCKER,
            Self::Computer => &tiers::COMPUTER,
        };
        bootstrapped::make(work, image, (self.name(), tier), progress)
    }
}

/// A stored image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: Option<Name>,
    path: PathBuf,
    manifest: Manifest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// SHA-256 of root.erofs.
    sha256: String,
    size_bytes: u64,
    /// Seconds since the Unix epoch.
    created_at: i64,
    /// Where it came from, for people.
    source: String,
    /// Packages with their versions, if it was made of packages.
    #[serde(default)]
    packages: Vec<String>,
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

    /// SHA-256 of the image file, lower-case hexadecimal: the image's identity.
    pub fn digest(&self) -> &str {
        &self.manifest.sha256
    }

    /// The erofs file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the erofs file in bytes.
    pub fn size(&self) -> u64 {
        self.manifest.size_bytes
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

fn names_directory(data: &Path) -> PathBuf {
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
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(result.path().join(manifest::NAME), text)?;

    let name: Name = recipe.name().parse()?;
    let names = names_directory(data);
    fs::create_dir_all(&names)?;
    // Between these two steps the content has no name and must not be collected.
    let _no_collection = staging::lock(&names, FlockOperation::LockShared)?;
    let target = content.join(&file.sha256);
    if !target.exists() {
        result.commit(&target)?;
    }
    let pointer = Pointer { name: name.clone(), sha256: file.sha256 };
    let text = manifest::render(NAME_MAGIC, FORMAT, &pointer)?;
    files::write_atomic(&names.join(name.as_str()), &text, 0o644)?;
    open(data, name.as_str())
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
    let pointer: Pointer = manifest::read(&path, NAME_MAGIC, FORMAT)?;
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
    let manifest: Manifest = manifest::read(&path, MAGIC, FORMAT)?;
    if manifest.sha256 != digest {
        let reason = "it describes another directory".to_owned();
        return Err(DiskError::Manifest { path, reason }.into());
    }
    entry(&manifest).check_size(&directory)?;
    Ok(Image { name: None, path: directory.join(ROOT), manifest })
}

/// The images that have a name, by name. Damaged ones are left out.
///
/// # Errors
/// If the directory of names cannot be read.
pub fn list(data: &Path) -> Result<Vec<Image>, ImageError> {
    Ok(known(data)?.iter().filter_map(|name| open(data, name).ok()).collect())
}

/// Hashes the image file again.
///
/// # Errors
/// [`DiskError::Damaged`] if it is not what it was.
pub fn verify(image: &Image) -> Result<(), DiskError> {
    let directory = image.path.parent().unwrap_or(Path::new("."));
    entry(&image.manifest).verify(directory)
}

/// Takes the name away; the content stays for those who use it.
///
/// # Errors
/// [`ImageError::Unknown`] if there is no such name.
pub fn remove(data: &Path, name: &str) -> Result<(), ImageError> {
    let name: Name = name.parse()?;
    match fs::remove_file(names_directory(data).join(name.as_str())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ImageError::Unknown { name: name.to_string(), known: known(data)? })
        }
        other => Ok(other?),
    }
}

/// Removes the content that no name means and whose digest is not in `used`, and says how many
/// images that were.
///
/// # Errors
/// If a name cannot be read, in which case nothing is removed, or content cannot be removed.
pub fn collect_garbage(data: &Path, used: &HashSet<String>) -> Result<usize, ImageError> {
    let names = names_directory(data);
    if !names.exists() {
        return Ok(0);
    }
    let _no_preparation = staging::lock(&names, FlockOperation::LockExclusive)?;
    let mut keep = used.clone();
    for name in known(data)? {
        let pointer: Pointer = manifest::read(&names.join(name), NAME_MAGIC, FORMAT)?;
        keep.insert(pointer.sha256);
    }
    let mut removed = 0;
    for entry in fs::read_dir(content_directory(data))? {
        let entry = entry?;
        let digest = entry.file_name().to_string_lossy().into_owned();
        if is_digest(&digest) && !keep.contains(&digest) {
            files::remove_any(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn entry(manifest: &Manifest) -> FileEntry {
    let (sha256, size) = (manifest.sha256.clone(), manifest.size_bytes);
    FileEntry { path: ROOT.to_owned(), sha256, size }
}

fn is_digest(text: &str) -> bool {
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
