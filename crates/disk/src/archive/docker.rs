//! What `docker save` and `podman save` write.

use std::path::Path;

use serde::Deserialize;

use super::{
    ArchiveError, Imported, Wanted,
    config::read_config,
    layout::is_called,
    reader::{Blob, Reader},
};
use crate::{image::is_digest, layer::shown, report};

pub(super) const MANIFEST: &str = "manifest.json";
/// How many names are shown when none is the right one.
const NAMED_MAX: usize = 50;

/// One image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn import(
    data: &Path,
    reader: &mut Reader<'_>,
    wanted: Wanted<'_>,
) -> Result<Imported, ArchiveError> {
    let manifest = Blob { name: MANIFEST, sha256: None, size: None };
    let entries: Vec<Entry> = reader.json(&manifest)?;
    let (entry, reference) = choose(entries, wanted.name)?;
    let text = reader.document(&Blob {
        name: &entry.config,
        sha256: digest_in(&entry.config),
        size: None,
    })?;
    let (config, layers) = read_config(&text)?;
    let blobs = entry.layers.unwrap_or_default();
    if blobs.len() != layers.len() {
        let (has, named) = (blobs.len(), layers.len());
        let reason = format!("it has {has} layers, and the configuration names {named}");
        return Err(ArchiveError::Document { name: MANIFEST.to_owned(), reason });
    }
    for (number, (name, id)) in blobs.iter().zip(&layers).enumerate() {
        report(wanted.progress, format!("storing layer {} of {}", number + 1, layers.len()));
        // What it is when it is unpacked is known, so this need not be checked twice.
        reader.layer(data, &Blob { name, sha256: None, size: None }, id, wanted)?;
    }
    Ok(Imported { layers, config, reference })
}

fn choose(
    mut entries: Vec<Entry>,
    wanted: Option<&str>,
) -> Result<(Entry, Option<String>), ArchiveError> {
    let names = |entries: &[Entry]| -> Vec<String> {
        let tags = entries.iter().flat_map(|entry| entry.repo_tags.iter().flatten());
        tags.take(NAMED_MAX).map(|tag| shown(tag.as_bytes())).collect()
    };
    let found = names(&entries);
    let Some(name) = wanted else {
        return match entries.len() {
            0 => Err(ArchiveError::Unsupported { what: "no image at all".to_owned() }),
            1 => {
                let entry = entries.remove(0);
                Ok((entry, found.into_iter().next()))
            }
            _ => Err(ArchiveError::Several { found }),
        };
    };
    let has = |entry: &Entry| entry.repo_tags.iter().flatten().any(|tag| is_called(tag, name));
    match entries.into_iter().find(has) {
        Some(entry) => Ok((entry, Some(name.to_owned()))),
        None => Err(ArchiveError::NoImage { wanted: shown(name.as_bytes()), found }),
    }
}

/// The SHA-256 that a configuration's name says.
fn digest_in(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let last = last.strip_suffix(".json").unwrap_or(last);
    Some(last.strip_prefix("sha256:").unwrap_or(last)).filter(|digest| is_digest(digest))
}
