//! Kernel bundles: what a sandbox's kernel is made of, in one immutable directory.
//!
//! ```text
//! kernels/<id>/manifest.json
//!              vmlinux          uncompressed ELF file, booted directly
//!              boot/000-….ko    modules up to the root file system, in loading order
//!              modules.erofs    everything else: <release>/… as in /lib/modules
//! kernels/current               the id of the default kernel
//! ```
//!
//! The id is derived from the hashes of the content, so that preparing the same kernel again
//! finds the bundle that is there.

mod decompress;
mod modules;
mod prepare;
mod source;
mod vmlinux;

use std::{
    io,
    path::{Path, PathBuf},
};

use base::files;
use fs_err as fs;
use serde::{Deserialize, Serialize};

pub use self::{
    decompress::DecompressError, modules::ModulesError, prepare::prepare, source::KernelSource,
    vmlinux::VmlinuxError,
};
use crate::{AptError, DiskError, FileEntry, manifest};

const MAGIC: &str = "bhatti-kernel";
const FORMAT: u32 = 1;
const VMLINUX: &str = "vmlinux";
const MODULES: &str = "modules.erofs";
const BOOT: &str = "boot";
const CURRENT: &str = "current";

/// Digits of the content's hash in an id.
const ID_DIGITS: usize = 16;

/// Why there is no kernel bundle.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No kernel has been prepared yet.
    #[error("there is no kernel yet")]
    NoKernel,
    /// There is no bundle of that id.
    #[error("there is no kernel {id:?}")]
    Unknown {
        /// The id asked for.
        id: String,
        /// The ids that there are.
        known: Vec<String>,
    },
    /// A package cannot be had.
    #[error("get the kernel's packages")]
    Apt(#[from] AptError),
    /// What was found is not a kernel with its modules.
    #[error("{reason}")]
    NotFound {
        /// What is missing, and where it was looked for.
        reason: String,
    },
    /// No uncompressed kernel can be taken out of the image.
    #[error("extract the kernel from {}", path.display())]
    Vmlinux {
        /// The kernel image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: VmlinuxError,
    },
    /// The boot modules cannot be listed.
    #[error("choose the boot modules in {}", path.display())]
    Modules {
        /// The directory of the kernel's modules.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ModulesError,
    },
    /// A boot module cannot be decompressed.
    #[error("decompress {}", path.display())]
    Module {
        /// The module.
        path: PathBuf,
        /// Why not.
        #[source]
        source: DecompressError,
    },
    /// A file operation or a tool failed, or something stored is damaged.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<io::Error> for KernelError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.into())
    }
}

impl KernelError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoKernel => Some("run: bhatti kernel".to_owned()),
            Self::Unknown { known, .. } if known.is_empty() => {
                Some("run: bhatti kernel".to_owned())
            }
            Self::Unknown { known, .. } => Some(format!("there are: {}", known.join(", "))),
            Self::Apt(error) => error.hint(),
            Self::Vmlinux { .. } | Self::Modules { .. } => {
                Some("use another kernel, for instance the distribution's cloud kernel".to_owned())
            }
            Self::Disk(error) => error.hint(),
            Self::NotFound { .. } | Self::Module { .. } => None,
        }
    }
}

/// A boot module as it lies in a bundle, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootModule {
    /// The module's name, with underscores.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The file's SHA-256.
    pub sha256: String,
}

/// A prepared kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBundle {
    directory: PathBuf,
    manifest: Manifest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    id: String,
    release: String,
    /// Where it came from, for people.
    source: String,
    /// Seconds since the Unix epoch.
    created_at: i64,
    /// vmlinux, modules.erofs and then the boot modules in loading order.
    files: Vec<FileEntry>,
}

impl KernelBundle {
    /// The content's identity.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// The kernel release, as `uname -r` prints it in the guest.
    pub fn release(&self) -> &str {
        &self.manifest.release
    }

    /// Where the kernel came from, for people.
    pub fn source(&self) -> &str {
        &self.manifest.source
    }

    /// When it was prepared, in seconds since the Unix epoch.
    pub fn created_at(&self) -> i64 {
        self.manifest.created_at
    }

    /// The uncompressed kernel.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join(VMLINUX)
    }

    /// The read-only image with `<release>/…` as in `/lib/modules`.
    pub fn modules_image(&self) -> PathBuf {
        self.directory.join(MODULES)
    }

    /// The boot modules in loading order.
    pub fn boot_modules(&self) -> Vec<BootModule> {
        let boot = self.manifest.files.iter().filter(|file| file.path.starts_with("boot/"));
        boot.map(|file| {
            let name = file.path.split_once('-').map_or(file.path.as_str(), |(_, name)| name);
            BootModule {
                name: modules::module_name(name),
                path: self.directory.join(&file.path),
                sha256: file.sha256.clone(),
            }
        })
        .collect()
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Every file with its hash and size.
    pub fn files(&self) -> &[FileEntry] {
        &self.manifest.files
    }
}

pub(crate) fn directory(data: &Path) -> PathBuf {
    data.join("kernels")
}

/// The default kernel: the one prepared last.
///
/// # Errors
/// [`KernelError::NoKernel`] if none has been prepared, else as [`open`].
pub fn current(data: &Path) -> Result<KernelBundle, KernelError> {
    match fs::read_to_string(directory(data).join(CURRENT)) {
        Ok(id) => open(data, id.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KernelError::NoKernel),
        Err(error) => Err(error.into()),
    }
}

/// Makes `bundle` the default kernel.
///
/// # Errors
/// If the file that names it cannot be written.
pub fn set_current(data: &Path, bundle: &KernelBundle) -> Result<(), KernelError> {
    let text = format!("{}\n", bundle.id());
    Ok(files::write_atomic(&directory(data).join(CURRENT), text.as_bytes(), 0o644)?)
}

/// The bundle of that id. Its files are there and have their sizes; [`verify`] says more.
///
/// # Errors
/// [`KernelError::Unknown`] if there is none, [`KernelError::Disk`] if it is damaged.
pub fn open(data: &Path, id: &str) -> Result<KernelBundle, KernelError> {
    let directory = directory(data).join(id);
    if !is_id(id) || !directory.is_dir() {
        return Err(KernelError::Unknown { id: id.to_owned(), known: ids(data)? });
    }
    let path = directory.join(manifest::NAME);
    let manifest: Manifest = manifest::read(&path, MAGIC, FORMAT)?;
    let foreign = manifest.files.iter().find(|file| !manifest::is_inside(&file.path));
    if manifest.id != id || foreign.is_some() {
        let reason = "it describes another directory".to_owned();
        return Err(DiskError::Manifest { path, reason }.into());
    }
    for file in &manifest.files {
        file.check_size(&directory)?;
    }
    Ok(KernelBundle { directory, manifest })
}

/// All bundles, the newest first. Damaged ones are left out.
///
/// # Errors
/// If the directory of the bundles cannot be read.
pub fn list(data: &Path) -> Result<Vec<KernelBundle>, KernelError> {
    let mut bundles: Vec<_> = ids(data)?.iter().filter_map(|id| open(data, id).ok()).collect();
    bundles.sort_by_key(|bundle| std::cmp::Reverse(bundle.created_at()));
    Ok(bundles)
}

/// Hashes every file of the bundle again.
///
/// # Errors
/// [`DiskError::Damaged`] with the first file that is not what it was.
pub fn verify(bundle: &KernelBundle) -> Result<(), DiskError> {
    bundle.manifest.files.iter().try_for_each(|file| file.verify(&bundle.directory))
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn ids(data: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory(data)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_id(&name) {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
pub(crate) mod tests;
