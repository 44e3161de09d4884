//! An image that differs from another in what it says only.

use std::path::Path;

use base::{clock, fault, hash};
use fs_err as fs;

use super::{
    Config, FORMAT, Image, ImageError, MAGIC, Manifest, ROOT, content_directory, hold, open_digest,
};
use crate::{manifest, staging::Staging};

/// What the digest of such an image begins from.
const KIND: &str = "bhatti image with another configuration, 1";

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
    let digest = hash::key([KIND.as_bytes(), base.digest().as_bytes(), &text]);
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
