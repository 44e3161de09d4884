//! From layers to an image.

use std::{collections::HashMap, path::Path};

use base::{clock, fault, hash};
use fs_err as fs;

use super::{
    Config, FORMAT, Image, ImageError, MAGIC, Manifest, ROOT, UsedLayer, content_directory, hold,
    open_digest,
};
use crate::{
    BLOCK_SIZE,
    erofs::tree::{self, Source},
    layer::{Layer, LayerId},
    manifest,
    merge::Tree,
    staging::Staging,
};

/// Most layers of an image, as Docker has it. Each is a file that QEMU has open.
const LAYERS_MAX: usize = 127;

/// What root.erofs of the same layers looks like; another one is another image.
const WRITER: &str = "bhatti image of layers, 1";

/// Makes an image of stored layers, lowest first. It has no name yet. Layers and configuration
/// decide its digest; if there is such an image already, that is it.
///
/// The caller holds [`hold`] until the image has a name or an owner.
///
/// # Errors
/// If there are too many layers, one is missing, or they do not fit together; if the disk fails.
/// Nothing half-made stays behind.
pub fn assemble(
    data: &Path,
    layers: &[LayerId],
    config: Config,
    source: String,
) -> Result<Image, ImageError> {
    if layers.len() > LAYERS_MAX {
        return Err(ImageError::TooManyLayers(layers.len()));
    }
    let _hold = hold(data)?;
    let digest = digest(layers, &config)?;
    if let Ok(image) = open_digest(data, &digest) {
        return Ok(image);
    }
    let opened: Vec<_> = layers.iter().map(|id| Layer::open(data, id)).collect::<Result<_, _>>()?;
    let content = content_directory(data);
    let staging = Staging::inside(&content)?;
    let mut tree = Tree::new();
    for (number, layer) in opened.iter().enumerate() {
        tree.apply(number, layer.entries()?)?;
    }
    let (sources, blocks) = sources(&opened);
    let root = tree::write(&tree, &sources, blocks, staging.path(), ROOT)?;
    let manifest = Manifest {
        sha256: digest.clone(),
        size_bytes: root.size,
        root_sha256: Some(root.sha256),
        created_at: clock::unix_seconds(),
        source,
        config,
        layers: opened.iter().map(used).collect(),
        ..Manifest::default()
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(staging.path().join(manifest::NAME), text)?;
    fault::point("image.commit")?;
    let target = content.join(&digest);
    staging.commit_private(&target)?;
    open_digest(data, &digest)
}

fn digest(layers: &[LayerId], config: &Config) -> Result<String, ImageError> {
    let config = serde_json::to_vec(config).map_err(std::io::Error::from)?;
    let ids = layers.iter().map(|id| id.as_str().as_bytes());
    Ok(hash::key([WRITER.as_bytes(), &config].into_iter().chain(ids)))
}

fn used(layer: &Layer) -> UsedLayer {
    UsedLayer { id: layer.id().clone(), data_bytes: layer.data_size(), stored_bytes: layer.size() }
}

/// Where on the disk each layer's data is, and how many blocks all of it has. A layer that comes
/// twice has its data there once.
fn sources(layers: &[Layer]) -> (Vec<Source>, u64) {
    let (mut places, mut blocks) = (HashMap::new(), 0);
    let sources = layers.iter().map(|layer| {
        let first_block = *places.entry(layer.id()).or_insert(blocks);
        if first_block == blocks {
            blocks += layer.data_size() / BLOCK_SIZE;
        }
        Source { small: layer.small(), first_block }
    });
    (sources.collect(), blocks)
}
