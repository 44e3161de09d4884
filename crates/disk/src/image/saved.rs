//! Images that share the files of others: of sandboxes, which are an image and the disk over it, and those
//! that say something else.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use base::{clock, fault, files, hash, random};
use fs_err as fs;

use super::{
    Config, FORMAT, Image, ImageError, MAGIC, Manifest, ROOT, SavedDisk, SavedFiles,
    content_directory, hold, open_digest,
};
use crate::{manifest, staging::Staging};

/// What the digest of such an image begins from; nothing of its content, because reading all of a disk
/// would take longer than making the image.
const KIND: &str = "bhatti image of a sandbox, 1";

/// The same of an image that differs from another in what it says only.
const CONFIGURED: &str = "bhatti image with another configuration, 1";

/// Makes an image of `base` and of what a sandbox made of it has on its disk. The disk's files are shared
/// by hard links and must never be written again. It has no name yet, and a digest that no other image has.
///
/// The caller holds [`hold`] until the image has a name or an owner.
///
/// # Errors
/// If `base` is damaged or the disk fails. Nothing half-made stays behind.
pub fn save(
    data: &Path,
    base: &Image,
    disk: &SavedDisk,
    config: Config,
    source: String,
) -> Result<Image, ImageError> {
    let _hold = hold(data)?;
    let content = content_directory(data);
    let staging = Staging::inside(&content)?;
    let place = |name: &str| staging.path().join(name);
    fault::point("image.link")?;
    fs::hard_link(base.directory.join(ROOT), place(ROOT))?;
    let raw = "disk.raw".to_owned();
    fs::hard_link(&disk.raw, place(&raw))?;
    let mut layers = Vec::new();
    let mut bytes = 0;
    for (number, layer) in disk.layers.iter().enumerate() {
        let name = format!("layer-{number}.qcow2");
        fs::hard_link(layer, place(&name))?;
        // st_blocks counts 512 bytes whatever the file system's block size is, see stat(3type).
        bytes += fs::metadata(layer)?.blocks() * 512;
        layers.push(name);
    }
    let digest = hash::key([KIND.as_bytes(), base.digest().as_bytes(), &random::bytes::<32>()]);
    let manifest = Manifest {
        sha256: digest.clone(),
        size_bytes: base.manifest.size_bytes,
        root_sha256: Some(base.manifest.root_digest().to_owned()),
        created_at: clock::unix_seconds(),
        source,
        packages: base.manifest.packages.clone(),
        config,
        layers: base.manifest.layers.clone(),
        disk: Some(SavedFiles { size_mib: disk.size_mib, raw, layers, bytes }),
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(place(manifest::NAME), text)?;
    fault::point("image.saved")?;
    if let Err(error) = staging.commit_private(&content.join(&digest)) {
        // It may be there and only not be certain to stay.
        let _ = discard(data, &digest);
        return Err(error.into());
    }
    open_digest(data, &digest)
}

/// Removes the content of an image that [`save`] has made and nobody knows of. That it is not there is no
/// error.
///
/// # Errors
/// If the disk fails.
pub fn discard(data: &Path, digest: &str) -> Result<(), ImageError> {
    let content = content_directory(data);
    if !super::is_digest(digest) {
        return Err(ImageError::Unknown { name: digest.to_owned(), known: Vec::new() });
    }
    // Nobody is to see half of it.
    let aside = files::temporary_sibling(&content.join(digest));
    match fs::rename(content.join(digest), &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(files::remove_any(&aside)?),
    }
}

/// Makes an image of the files of `base` that says something else. Files are shared by hard links. It has
/// no name yet; if there is such an image already, that is it.
///
/// The caller holds [`hold`] until the image has a name or an owner.
///
/// # Errors
/// If `base` is damaged or the disk fails. Nothing half-made stays behind.
pub fn configure(
    data: &Path,
    base: &Image,
    config: Config,
    source: String,
) -> Result<Image, ImageError> {
    let _hold = hold(data)?;
    let text = serde_json::to_vec(&config).map_err(std::io::Error::from)?;
    let digest = hash::key([CONFIGURED.as_bytes(), base.digest().as_bytes(), &text]);
    if let Ok(image) = open_digest(data, &digest) {
        return Ok(image);
    }
    let content = content_directory(data);
    let staging = Staging::inside(&content)?;
    let saved = base.manifest.disk.iter();
    let files = saved.flat_map(|disk| disk.layers.iter().chain([&disk.raw]));
    for name in files.map(String::as_str).chain([ROOT]) {
        fault::point("image.link")?;
        fs::hard_link(base.directory.join(name), staging.path().join(name))?;
    }
    let manifest = Manifest {
        sha256: digest.clone(),
        root_sha256: Some(base.manifest.root_digest().to_owned()),
        created_at: clock::unix_seconds(),
        source,
        config,
        ..base.manifest.clone()
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(staging.path().join(manifest::NAME), text)?;
    fault::point("image.configured")?;
    staging.commit(&content.join(&digest))?;
    open_digest(data, &digest)
}
