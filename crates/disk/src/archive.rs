//! Images in one file, as other programs write and read them.
//!
//! ```text
//! docker save   manifest.json ──► <config>.json, <layer>/layer.tar …
//! OCI layout    index.json ──► blobs/sha256/<manifest> ──► blobs/sha256/<config>, <layer> …
//! plain tar     the root file system itself: one layer
//! ```
//! [`import`] tells them apart by what is in them. An archive may come from anybody: it is never
//! unpacked. Where its members are is listed, and they are read where they are; names that its
//! documents mention are looked up in that list and nowhere else; every document has a largest
//! size, every blob the SHA-256 that it should have, and every layer its diff-id.
//!
//! [`export`] writes an OCI layout that also has Docker's `manifest.json`, so that either world
//! reads it.

mod config;
mod docker;
mod error;
mod export;
mod layout;
mod platform;
mod reader;

use std::path::Path;

use self::reader::Reader;
pub use self::{config::read_config, error::ArchiveError, export::export};
pub use crate::layer::outer::Source;
use crate::{
    Listener,
    image::Config,
    layer::{self, LayerId, Limits, outer},
    report,
};

/// What came out of an archive. The layers are stored; what makes an image of them is
/// [`crate::image::assemble`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Lowest first.
    pub layers: Vec<LayerId>,
    /// What the image says about processes; of a plain tar only the architecture.
    pub config: Config,
    /// What the image is called in the archive, if it has a name there.
    pub reference: Option<String>,
}

/// Which image of an archive, and what is heard of it.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    name: Option<&'a str>,
    limits: &'a Limits,
    progress: Listener<'a>,
}

/// Takes the layers of an image in an archive into the store below `data`. `wanted` is the image's
/// name if there are several. The archive may be compressed as a whole, in which case it is
/// unpacked to a file first, which needs as much room.
///
/// The caller holds [`crate::image::hold`] until the image has a name or an owner.
///
/// # Errors
/// If the archive is damaged, is none, has no such image, or more than is allowed; if the store
/// fails. Layers that were whole by then stay until they are collected.
pub fn import(
    data: &Path,
    archive: &mut dyn Source,
    wanted: Option<&str>,
    limits: &Limits,
    progress: Listener<'_>,
) -> Result<Imported, ArchiveError> {
    let wanted = Wanted { name: wanted, limits, progress };
    report(progress, "reading the archive");
    match outer::unpack(data, archive, limits)? {
        Some(mut unpacked) => import_plain(data, &mut unpacked.file, wanted),
        None => import_plain(data, archive, wanted),
    }
}

fn import_plain(
    data: &Path,
    archive: &mut dyn Source,
    wanted: Wanted<'_>,
) -> Result<Imported, ArchiveError> {
    let Some(members) = outer::list(archive)? else {
        return import_root(data, archive, wanted);
    };
    let mut reader = Reader::new(archive, members);
    if reader.has(docker::MANIFEST) {
        docker::import(data, &mut reader, wanted)
    } else {
        layout::import(data, &mut reader, wanted)
    }
}

fn import_root(
    data: &Path,
    archive: &mut dyn Source,
    wanted: Wanted<'_>,
) -> Result<Imported, ArchiveError> {
    if let Some(name) = wanted.name {
        return Err(ArchiveError::NoImage { wanted: name.to_owned(), found: Vec::new() });
    }
    archive.rewind().map_err(ArchiveError::Source)?;
    report(wanted.progress, "storing the only layer");
    let mut reader = archive;
    let layer = layer::add(data, &mut reader, None, wanted.limits)?;
    let config = Config { architecture: platform::architecture().to_owned(), ..Config::default() };
    Ok(Imported { layers: vec![layer], config, reference: None })
}

#[cfg(test)]
mod tests;
