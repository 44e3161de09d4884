//! What is stored of images, looked at from outside.

use std::{collections::BTreeSet, path::Path};

use api::Image;
use fs_err as fs;
use serde_json::Value;

use crate::{Node, host::names, until};

/// All images that the admin has are there with all that they consist of, and layers that no content has
/// are not there, or go by themselves. Images that were prepared for many tests are taken for whole.
///
/// # Panics
/// If that is not so; `when` says where the test was.
pub async fn images_are_whole(node: &Node, when: &str) -> Vec<Image> {
    let images = node.admin().images().await.expect("images can be listed");
    for digest in images.iter().map(|image| image.digest.as_str()) {
        let content = node.data().join("images/content").join(digest);
        if !content.is_symlink() {
            whole(node.data(), &content).unwrap_or_else(|why| panic!("{when}: {digest}: {why}"));
        }
    }
    until(&format!("{when}: there are no layers without an image"), async || {
        let content = own(node, "content");
        let needed: BTreeSet<String> =
            content.iter().flat_map(|digest| layers(&content_of(node, digest))).collect();
        (own(node, "layers") == needed && names(&node.data().join("incoming")).is_empty())
            .then_some(())
    })
    .await;
    images
}

/// Content without a name of anybody's: what a prune is for.
pub fn unnamed_content(node: &Node, images: &[Image]) -> BTreeSet<String> {
    let mut content = own(node, "content");
    content.retain(|digest| images.iter().all(|image| image.digest != *digest));
    content
}

/// What lies there and is not a link to what many tests share.
fn own(node: &Node, directory: &str) -> BTreeSet<String> {
    let directory = node.data().join("images").join(directory);
    names(&directory).into_iter().filter(|name| !directory.join(name).is_symlink()).collect()
}

fn content_of(node: &Node, digest: &str) -> Value {
    manifest(&node.data().join("images/content").join(digest)).unwrap_or_default()
}

fn manifest(directory: &Path) -> Result<Value, String> {
    let text = fs::read(directory.join("manifest.json")).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn layers(content: &Value) -> Vec<String> {
    let layers = content["layers"].as_array().into_iter().flatten();
    layers.filter_map(|layer| Some(layer["id"].as_str()?.to_owned())).collect()
}

/// Reads everything again that a content consists of.
fn whole(data: &Path, content: &Path) -> Result<(), String> {
    let said = manifest(content)?;
    let root = said["root_sha256"].as_str().or(said["sha256"].as_str()).unwrap_or_default();
    same(&content.join("root.erofs"), root)?;
    for layer in layers(&said) {
        let directory = data.join("images/layers").join(&layer);
        for file in manifest(&directory)?["files"].as_array().into_iter().flatten() {
            let name = file["path"].as_str().unwrap_or_default();
            same(&directory.join(name), file["sha256"].as_str().unwrap_or_default())?;
        }
    }
    let disk = &said["disk"];
    let saved = disk["layers"].as_array().into_iter().flatten().chain(disk.get("raw"));
    let missing = |name: &&Value| !content.join(name.as_str().unwrap_or_default()).is_file();
    match saved.filter(|name| !name.is_null()).find(missing) {
        Some(name) => Err(format!("{name} is missing")),
        None => Ok(()),
    }
}

fn same(file: &Path, wanted: &str) -> Result<(), String> {
    let found = base::hash::file(file).map_err(|error| error.to_string())?;
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{} has another content", file.display())),
    }
}
