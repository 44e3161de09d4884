//! OCI image layouts: an index, and blobs by their digests.

use std::path::Path;

use oci_spec::{
    distribution::Reference,
    image::{Descriptor, ImageIndex, ImageManifest},
};

use super::{
    ArchiveError, Imported, Wanted,
    config::read_config,
    platform,
    reader::{Blob, Reader},
};
use crate::{image::is_digest, layer::shown, report};

pub(super) const INDEX: &str = "index.json";
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// What an image is called: its tag, or all of its name.
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";
/// All of its name, as containerd and Docker say it.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";

/// How many indexes may be inside of each other.
const DEPTH_MAX: usize = 4;
/// How many of them are looked at in all.
const INDEXES_MAX: usize = 64;
/// How many names are shown when none is the right one.
const NAMED_MAX: usize = 50;

pub(super) fn import(
    data: &Path,
    reader: &mut Reader<'_>,
    wanted: Wanted<'_>,
) -> Result<Imported, ArchiveError> {
    let index: ImageIndex = reader.json(&Blob { name: INDEX, sha256: None, size: None })?;
    let (candidates, reference) = choose(index.manifests(), wanted.name)?;
    let mut search = Search { reader, found: Vec::new(), indexes: 0 };
    let Some(entry) = search.image(&candidates, 1)? else {
        let found = match search.found {
            found if found.is_empty() => vec!["nothing".to_owned()],
            found => found,
        };
        return Err(ArchiveError::WrongArchitecture { wanted: platform::shown(), found });
    };
    let manifest: ImageManifest = blob(&entry, |blob| reader.json(blob))?;
    let kind = manifest.config().media_type().to_string();
    if kind != CONFIG_TYPE && kind != DOCKER_CONFIG {
        return Err(unsupported("something that is no container image but", &kind));
    }
    let text = blob(manifest.config(), |blob| reader.document(blob))?;
    let (config, layers) = read_config(&text)?;
    if manifest.layers().len() != layers.len() {
        let (has, named) = (manifest.layers().len(), layers.len());
        let reason = format!("it has {has} layers, and the configuration names {named}");
        return Err(ArchiveError::Document {
            name: shown(entry.digest().as_ref().as_bytes()),
            reason,
        });
    }
    for (number, (entry, id)) in manifest.layers().iter().zip(&layers).enumerate() {
        let kind = entry.media_type().to_string();
        if !is_layer(&kind) {
            return Err(unsupported("a layer of type", &kind));
        }
        report(wanted.progress, format!("storing layer {} of {}", number + 1, layers.len()));
        blob(entry, |blob| reader.layer(data, blob, id, wanted))?;
    }
    Ok(Imported { layers, config, reference })
}

/// The entries that the wanted name means, and that name.
fn choose(
    entries: &[Descriptor],
    wanted: Option<&str>,
) -> Result<(Vec<Descriptor>, Option<String>), ArchiveError> {
    let mut found: Vec<String> = Vec::new();
    for name in entries.iter().filter_map(|entry| names(entry).next()) {
        let name = shown(name.as_bytes());
        if !found.contains(&name) && found.len() < NAMED_MAX {
            found.push(name);
        }
    }
    let Some(wanted) = wanted else {
        return match found.len() {
            // One image, which may be there for several platforms.
            0 | 1 => Ok((entries.to_vec(), found.pop())),
            _ => Err(ArchiveError::Several { found }),
        };
    };
    let is = |entry: &&Descriptor| names(entry).any(|name| is_called(name, wanted));
    let matching: Vec<_> = entries.iter().filter(is).cloned().collect();
    if matching.is_empty() {
        return Err(ArchiveError::NoImage { wanted: shown(wanted.as_bytes()), found });
    }
    Ok((matching, Some(wanted.to_owned())))
}

/// What an entry is called, the full name first.
fn names(entry: &Descriptor) -> impl Iterator<Item = &str> {
    let annotations = entry.annotations().as_ref();
    let get = move |key| annotations?.get(key).map(String::as_str);
    [FULL_NAME, NAME].into_iter().filter_map(get)
}

/// Whether a name in an archive is the one that somebody wants, each written short or in full.
pub(super) fn is_called(name: &str, wanted: &str) -> bool {
    let full = |text: &str| text.parse::<Reference>().map(|name| name.whole()).ok();
    name == wanted || full(name).is_some_and(|name| Some(name) == full(wanted))
}

/// The image for this machine among others.
struct Search<'a, 'b> {
    reader: &'a mut Reader<'b>,
    /// For what other machines there are images.
    found: Vec<String>,
    indexes: usize,
}

impl Search<'_, '_> {
    fn image(
        &mut self,
        entries: &[Descriptor],
        depth: usize,
    ) -> Result<Option<Descriptor>, ArchiveError> {
        for entry in entries {
            let kind = entry.media_type().to_string();
            match kind.as_str() {
                MANIFEST_TYPE | DOCKER_MANIFEST if self.is_for_here(entry) => {
                    return Ok(Some(entry.clone()));
                }
                MANIFEST_TYPE | DOCKER_MANIFEST => {}
                INDEX_TYPE | DOCKER_INDEX => {
                    self.indexes += 1;
                    if depth >= DEPTH_MAX || self.indexes > INDEXES_MAX {
                        return Err(unsupported("too many indexes inside of each other:", &kind));
                    }
                    let index: ImageIndex = blob(entry, |blob| self.reader.json(blob))?;
                    if let Some(image) = self.image(index.manifests(), depth + 1)? {
                        return Ok(Some(image));
                    }
                }
                other => return Err(unsupported("a manifest of type", other)),
            }
        }
        Ok(None)
    }

    /// Whoever says nothing of it says it in the configuration.
    fn is_for_here(&mut self, entry: &Descriptor) -> bool {
        let Some(told) = entry.platform() else { return true };
        let (os, architecture) = (told.os().to_string(), told.architecture().to_string());
        if os == "linux" && architecture == platform::architecture() {
            return true;
        }
        let name = shown(format!("{os}/{architecture}").as_bytes());
        if os != "unknown" && !self.found.contains(&name) && self.found.len() < NAMED_MAX {
            self.found.push(name);
        }
        false
    }
}

/// Does something with the blob that a descriptor means.
fn blob<T>(
    entry: &Descriptor,
    act: impl FnOnce(&Blob<'_>) -> Result<T, ArchiveError>,
) -> Result<T, ArchiveError> {
    let text = entry.digest().to_string();
    let Some(digest) = text.strip_prefix("sha256:").filter(|digest| is_digest(digest)) else {
        return Err(unsupported("a digest of another kind than SHA-256:", &text));
    };
    let name = format!("blobs/sha256/{digest}");
    act(&Blob { name: &name, sha256: Some(digest), size: Some(entry.size()) })
}

fn is_layer(kind: &str) -> bool {
    [LAYER_TYPE, DOCKER_LAYER].iter().any(|plain| {
        let rest = kind.strip_prefix(plain);
        rest.is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

fn unsupported(what: &str, kind: &str) -> ArchiveError {
    ArchiveError::Unsupported { what: format!("{what} {:?}", shown(kind.as_bytes())) }
}
