//! An image as an archive that other programs load.

use std::{
    io::{self, Write},
    path::Path,
};

use base::hash;
use oci_spec::distribution::Reference;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::{
    ArchiveError,
    config::write_config,
    docker,
    layout::{CONFIG_TYPE, FULL_NAME, INDEX, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, NAME},
};
use crate::{
    image::Config,
    layer::{self, LayerId, shown},
};

/// Tar archives consist of blocks of this many bytes.
const BLOCK: usize = 512;

/// A layer as it is exported.
struct Exported {
    /// Of the archive that is written, which need not be the layer's own.
    id: LayerId,
    size: u64,
}

/// Writes an image of these stored layers, lowest first, to `to` as an OCI layout that also has what
/// `docker load` wants, called `reference` in it. The same layers and configuration give the same
/// bytes each time.
///
/// # Errors
/// [`ArchiveError::Reference`] if it cannot be called so, [`ArchiveError::Sink`] if writing fails; if
/// what is stored is damaged.
pub fn export(
    data: &Path,
    layers: &[LayerId],
    config: &Config,
    reference: &str,
    to: &mut dyn Write,
) -> Result<(), ArchiveError> {
    let name: Reference =
        reference.parse().map_err(|_| ArchiveError::Reference(shown(reference.as_bytes())))?;
    let stored = layers;
    // Layers are written twice, the first time to nowhere: an archive says how large a file is
    // before the file.
    let layers: Vec<Exported> =
        stored.iter().map(|id| measure(data, id)).collect::<Result<_, _>>()?;
    let ids: Vec<LayerId> = layers.iter().map(|layer| layer.id.clone()).collect();
    let config = write_config(config, &ids);
    let manifest = manifest(&config, &layers);

    let mut archive = Archive { to };
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file(&path(&hash::bytes(&config)), &config)?;
    archive.file(&path(&hash::bytes(&manifest)), &manifest)?;
    for (number, (id, layer)) in stored.iter().zip(&layers).enumerate() {
        if ids[..number].contains(&layer.id) {
            continue;
        }
        archive.header(&path(layer.id.as_str()), layer.size)?;
        layer::export(data, id, archive.to)?;
        archive.pad(layer.size)?;
    }
    archive.file(INDEX, &index(&manifest, &name))?;
    archive.file(docker::MANIFEST, &for_docker(&config, &ids, &name))?;
    archive.end()
}

fn measure(data: &Path, id: &LayerId) -> Result<Exported, ArchiveError> {
    let mut meter = Meter { hash: hash::Stream::default(), size: 0 };
    layer::export(data, id, &mut meter)?;
    Ok(Exported { id: meter.hash.finish().parse()?, size: meter.size })
}

fn path(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size})
}

fn manifest(config: &[u8], layers: &[Exported]) -> Vec<u8> {
    let layers: Vec<Value> =
        layers.iter().map(|l| descriptor(LAYER_TYPE, l.id.as_str(), l.size)).collect();
    let config = descriptor(CONFIG_TYPE, &hash::bytes(config), config.len() as u64);
    let text = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers,
    });
    text.to_string().into_bytes()
}

fn index(manifest: &[u8], name: &Reference) -> Vec<u8> {
    let mut entry = descriptor(MANIFEST_TYPE, &hash::bytes(manifest), manifest.len() as u64);
    entry["annotations"] = json!({NAME: tag(name), FULL_NAME: full(name)});
    json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]})
        .to_string()
        .into_bytes()
}

fn for_docker(config: &[u8], layers: &[LayerId], name: &Reference) -> Vec<u8> {
    let layers: Vec<String> = layers.iter().map(|id| path(id.as_str())).collect();
    let config = path(&hash::bytes(config));
    json!([{"Config": config, "RepoTags": [full(name)], "Layers": layers}]).to_string().into_bytes()
}

fn tag(name: &Reference) -> &str {
    name.tag().unwrap_or("latest")
}

fn full(name: &Reference) -> String {
    format!("{}/{}:{}", name.registry(), name.repository(), tag(name))
}

struct Archive<'a> {
    to: &'a mut dyn Write,
}

impl Archive<'_> {
    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), ArchiveError> {
        self.header(name, content.len() as u64)?;
        self.write(content)?;
        self.pad(content.len() as u64)
    }

    fn header(&mut self, name: &str, size: u64) -> Result<(), ArchiveError> {
        let mut header = Header::new_ustar();
        header.set_path(name).map_err(ArchiveError::Sink)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.write(&[0; BLOCK][..usize::try_from(padding).unwrap_or_default()])
    }

    fn end(mut self) -> Result<(), ArchiveError> {
        self.write(&[0; 2 * BLOCK])?;
        self.to.flush().map_err(ArchiveError::Sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.to.write_all(bytes).map_err(ArchiveError::Sink)
    }
}

/// Says how much is written to it, and what.
struct Meter {
    hash: hash::Stream,
    size: u64,
}

impl Write for Meter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
