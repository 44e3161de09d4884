//! Images to serve, right unless a test makes them wrong.

use std::collections::HashMap;

use registry::{Digest, Platform};
use serde_json::{Value, json};

use crate::server::{Asked, Reply};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a registry has: manifests by name or digest, and blobs by digest.
#[derive(Default, Clone)]
pub(crate) struct Content {
    pub(crate) manifests: HashMap<String, Vec<u8>>,
    pub(crate) blobs: HashMap<String, Vec<u8>>,
}

pub(crate) fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()})
}

pub(crate) fn config(architecture: &str, diff_ids: &[String]) -> Value {
    json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

impl Content {
    pub(crate) fn put_blob(&mut self, content: &[u8]) {
        self.blobs.insert(Digest::of(content).to_string(), content.to_vec());
    }

    pub(crate) fn put_manifest(&mut self, tag: &str, manifest: &Value) -> Vec<u8> {
        let text = serde_json::to_vec(manifest).unwrap();
        self.manifests.insert(tag.to_owned(), text.clone());
        self.manifests.insert(Digest::of(&text).to_string(), text.clone());
        text
    }

    /// An image of these blobs, whose contents need not be layers.
    pub(crate) fn put_image(&mut self, tag: &str, architecture: &str, layers: &[&[u8]]) -> Value {
        let diff_ids: Vec<String> =
            layers.iter().map(|l| Digest::of(&[b"plain", *l].concat()).to_string()).collect();
        let config = serde_json::to_vec(&config(architecture, &diff_ids)).unwrap();
        self.put_blob(&config);
        let mut entries = Vec::new();
        for layer in layers {
            self.put_blob(layer);
            entries.push(descriptor(OCI_LAYER, layer));
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config), "layers": entries,
        });
        self.put_manifest(tag, &manifest);
        manifest
    }

    /// As a registry answers that means well.
    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let (kind, what) = match asked.path.rsplit_once('/') {
            Some((before, what)) => (before.rsplit('/').next().unwrap_or_default(), what),
            None => return Reply::not_found(),
        };
        let found = match kind {
            "manifests" => self.manifests.get(what),
            "blobs" => self.blobs.get(what),
            _ => None,
        };
        found.map_or_else(Reply::not_found, |content| Reply::ok(content))
    }
}

/// One image for this machine.
pub(crate) fn image(layers: &[&[u8]]) -> Content {
    let mut content = Content::default();
    content.put_image("latest", &Platform::default().architecture, layers);
    content
}
