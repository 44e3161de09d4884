//! Archives for tests: the usual ones, to be changed for the worse, and what is expected of them.

use std::io::Write as _;

use base::hash;
use serde_json::{Value, json};

use super::*;

/// An archive in the making: names and contents.
#[derive(Clone, Default)]
pub(super) struct Made(pub(super) Vec<(String, Entry)>);

#[derive(Clone)]
pub(super) enum Entry {
    File(Vec<u8>),
    Symlink(String),
    HardLink(String),
}

impl Made {
    pub(super) fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.push((name.to_owned(), Entry::File(content.as_ref().to_vec())));
        self
    }

    pub(super) fn blob(self, content: &[u8]) -> Self {
        self.file(&blob_name(content), content)
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    pub(super) fn replaced(self, name: &str, by: Entry) -> Self {
        let mut new = self.without(name);
        new.0.push((name.to_owned(), by));
        new
    }

    pub(super) fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            let (kind, content) = match entry {
                Entry::File(content) => (tar::EntryType::Regular, content.as_slice()),
                Entry::Symlink(to) => (tar::EntryType::Symlink, to.as_bytes()),
                Entry::HardLink(to) => (tar::EntryType::Link, to.as_bytes()),
            };
            header.set_entry_type(kind);
            let is_file = kind == tar::EntryType::Regular;
            header.set_size(if is_file { content.len() as u64 } else { 0 });
            if !is_file {
                header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content);
            }
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, if is_file { content } else { &[] }).unwrap();
        }
        tar.into_inner().unwrap()
    }
}

pub(super) fn blob_name(content: &[u8]) -> String {
    format!("blobs/sha256/{}", hash::bytes(content))
}

/// A layer with one file.
pub(super) fn layer_tar(name: &str) -> Vec<u8> {
    Made::default().file(name, format!("I am {name}")).tar()
}

pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn configuration(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", hash::bytes(l))).collect();
    json!({
        "architecture": platform::architecture(), "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
    .to_string()
    .into_bytes()
}

pub(super) fn layers() -> Vec<Vec<u8>> {
    vec![layer_tar("one"), layer_tar("two")]
}

/// As `docker save` wrote it for long.
pub(super) fn docker_old() -> Made {
    let layers = layers();
    let config = configuration(&layers);
    let name = format!("{}.json", hash::bytes(&config));
    let manifest = json!([{
        "Config": name, "RepoTags": ["mine:1", "mine:latest"],
        "Layers": ["aa/layer.tar", "bb/layer.tar"],
    }]);
    Made::default()
        .file("aa/VERSION", "1.0")
        .file("aa/layer.tar", &layers[0])
        .file("bb/layer.tar", &layers[1])
        .file(&name, &config)
        .file("manifest.json", manifest.to_string())
        .file("repositories", "{}")
}

pub(super) fn descriptor(kind: &str, content: &[u8]) -> Value {
    let digest = format!("sha256:{}", hash::bytes(content));
    json!({"mediaType": kind, "digest": digest, "size": content.len()})
}

/// A manifest of the usual image, with compressed layers, and its blobs.
pub(super) fn oci_blobs() -> (Value, Made) {
    let layers = layers();
    let config = configuration(&layers);
    let zipped: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let kind = format!("{}+gzip", layout::LAYER_TYPE);
    let entries: Vec<Value> = zipped.iter().map(|layer| descriptor(&kind, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": layout::MANIFEST_TYPE,
        "config": descriptor(layout::CONFIG_TYPE, &config), "layers": entries,
    });
    let made = zipped.iter().fold(Made::default().blob(&config), |made, layer| made.blob(layer));
    (manifest, made)
}

pub(super) fn with_index(made: Made, entries: &[Value]) -> Made {
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    made.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", index)
}

pub(super) fn oci_of(manifest: &Value, made: Made) -> Made {
    let text = manifest.to_string();
    with_index(made.blob(text.as_bytes()), &[descriptor(layout::MANIFEST_TYPE, text.as_bytes())])
}

pub(super) fn oci() -> Made {
    let (manifest, made) = oci_blobs();
    oci_of(&manifest, made)
}

pub(super) struct Store(pub(super) TempDir);

impl Store {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn import(
        &self,
        archive: &[u8],
        wanted: Option<&str>,
    ) -> Result<Imported, ArchiveError> {
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        layer::tests::tried("archive", archive);
        import(self.0.path(), &mut Cursor::new(archive), wanted, &limits, &|_| ())
    }
}

pub(super) fn imported(archive: &[u8]) -> Result<Imported, ArchiveError> {
    Store::new().import(archive, None)
}

#[track_caller]
pub(super) fn refused(made: &Made, what: fn(&ArchiveError) -> bool) {
    let error = imported(&made.tar()).unwrap_err();
    assert!(what(&error), "{error:?}");
    assert!(error.is_of_the_image(), "{error:?}");
    assert!(error.to_string().len() < 600, "{error}");
}

pub(super) fn is_document(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Document { .. })
}

pub(super) fn is_missing(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Missing { .. })
}

pub(super) fn is_digest_error(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Digest { .. } | ArchiveError::Layer(LayerError::Digest { .. }))
}

pub(super) fn is_unsupported(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Unsupported { .. })
}

pub(super) fn ids() -> Vec<LayerId> {
    layers().iter().map(|layer| hash::bytes(layer).parse().unwrap()).collect()
}
