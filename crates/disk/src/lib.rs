//! What sandboxes boot from and write to: kernels, the initramfs, base images, writable disks.
//!
//! ```text
//! <data>/kernels/<id>/        manifest.json  vmlinux  boot/NNN-name.ko  modules.erofs
//!        kernels/current      the id of the default kernel
//!        initramfs/<hash>.cpio
//!        images/content/<digest>/   manifest.json  root.erofs
//!        images/layers/<diff-id>/   manifest.json  index  small  data
//!        images/names/<name>  which content the name means
//! ```
//!
//! Everything stored is content addressed and immutable: it is built in a temporary sibling,
//! flushed, described by a manifest with the hash of every file, and made visible by one rename.
//! Images come from signed distribution packages, and from registries and archives that anybody may
//! have made ([`layer`], [`archive`]). Nothing here mounts or walks a file system that a guest could
//! have written, and no name of an archive becomes a path of the host.
//!
//! All functions block.

pub mod archive;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod layer;
pub mod qcow2;
pub mod scratch;
pub mod sparse;

mod apt;
mod erofs;
mod error;
mod manifest;
mod merge;
mod output;
mod staging;

use std::{io, path::Path};

pub use apt::AptError;
pub use error::DiskError;
pub use manifest::FileEntry;

/// Blocks of file systems and of the data of layers have this many bytes.
pub(crate) const BLOCK: usize = 4096;
/// The same, for positions in files.
pub(crate) const BLOCK_SIZE: u64 = BLOCK as u64;

/// A step of a longer preparation that has just begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for people: a lower-case phrase without a full stop.
    pub step: String,
}

/// Who hears about progress.
pub type Listener<'a> = &'a dyn Fn(Progress);

fn report(progress: Listener<'_>, step: impl Into<String>) {
    progress(Progress { step: step.into() });
}

/// Removes what crashed preparations left below `data` and says how much that was. Running
/// preparations, in this process or any other, are left alone, so this may run at any time. Names of
/// images that were not given to the end are left for the next time if somebody makes images now.
///
/// # Errors
/// If a directory cannot be read or something left behind cannot be removed.
pub fn sweep(data: &Path) -> io::Result<usize> {
    let mut removed = 0;
    let images = [image::content_directory(data), layer::directory(data)];
    for directory in images.into_iter().chain([kernel::directory(data)]) {
        removed += staging::sweep(&directory)?;
    }
    removed += image::packed::sweep(data)?;
    // Whoever gives a name holds what there is, so nobody does now.
    if let Some(_alone) = image::collector(data)? {
        let names = image::names_directory(data);
        if names.is_dir() {
            removed += base::files::sweep_temporary(&names)?;
        }
    }
    Ok(removed)
}
