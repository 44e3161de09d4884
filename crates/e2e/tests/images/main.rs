//! Images out of registries and archives, as people use them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod building;
mod dying;
mod exported;
mod interrupted;
mod keepers;
mod rights;
mod running;
mod tags;

use std::path::Path;

use api::{
    Image, PullEvent, PullImage,
    client::{Client, ClientError},
};
use e2e::{
    Node, Options,
    registry::{Layer, Layout, busybox},
};
use serde_json::json;

/// A node whose images are its own, without ready templates: there are none of these images.
fn node() -> Node {
    Node::with(&Options { ..Options::default() })
}

fn pull_request(reference: &str) -> PullImage {
    PullImage { reference: reference.to_owned(), ..PullImage::default() }
}

/// Pulls to the end.
async fn pull(client: &mut Client, request: &PullImage) -> Result<Image, ClientError> {
    let mut events = client.image_pull(request).await?;
    while let Some(event) = events.next().await? {
        match event {
            PullEvent::Result { image } => return Ok(*image),
            PullEvent::Error(body) => return Err(ClientError::Api(Box::new(body))),
            PullEvent::Task { .. } | PullEvent::Progress { .. } | PullEvent::Unknown => {}
        }
    }
    Err(ClientError::StreamCut)
}

/// An image that is told from others by a word, and has nothing that could run.
fn small(word: &str) -> Layout {
    let layers = vec![
        Layer::default().file("noise", 0o644, &noise(300_000)),
        Layer::default().file("word", 0o644, word.repeat(1000).as_bytes()),
    ];
    Layout::new(layers, &json!({"Env": [format!("WORD={word}")]}))
}

/// So many bytes that nothing makes smaller.
fn noise(count: usize) -> Vec<u8> {
    let byte = |at: usize| at.wrapping_mul(at).wrapping_mul(2_654_435_761).to_le_bytes()[3];
    (0..count).map(byte).collect()
}

/// Programs with which a guest can be looked at.
fn programs(data: &Path) -> Layer {
    let links = ["sh", "cat", "id", "stat", "env", "pwd", "ls", "sleep", "grep", "echo", "true"];
    let layer = Layer::default().directory("bin").file("bin/busybox", 0o755, &busybox(data));
    links.into_iter().fold(layer, |layer, name| layer.symlink(&format!("bin/{name}"), "busybox"))
}

/// Layers of images that are on the node's disk.
fn layers_of(node: &Node) -> usize {
    names(&node.data().join("images/layers"))
}

/// What lies in a directory, if it is there.
fn names(directory: &Path) -> usize {
    fs_err::read_dir(directory).map_or(0, Iterator::count)
}
