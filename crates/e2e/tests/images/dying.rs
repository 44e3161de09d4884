//! A pull in the middle of which something ends.

use std::collections::BTreeMap;

use api::ErrorCode;
use e2e::{Node, Options, refused, registry::Registry, until};

use super::{layers_of, names, pull, pull_request, small};

/// How often one place is tried.
const OFTEN: usize = 2;

#[tokio::test]
async fn a_pull_that_is_killed_or_finds_no_room_leaves_nothing() {
    let options = Options { faults: true, ..Options::default() };
    let mut node = Node::with(&options);
    let registry = Registry::start();
    registry.push(&small("one"), "x:1");
    let request = pull_request(&registry.reference("x:1"));
    node.faults().arm("");
    pull(&mut node.admin(), &request).await.unwrap();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for passing in node.faults().passed() {
        *places.entry(passing.place).or_default() += 1;
    }
    for wanted in ["layer.write", "layer.commit", "pull.downloaded", "pull.assembled"] {
        assert!(places.contains_key(wanted), "{places:?}");
    }
    let faults = places.iter().flat_map(|(place, count)| {
        let nth = (1..=*count).take(OFTEN).map(move |n| format!("{place}@{n}"));
        nth.flat_map(|place| [format!("{place}=kill"), format!("{place}=enospc")])
    });
    for fault in faults {
        forget(&node).await;
        node.faults().arm(&fault);
        let failed = pull(&mut node.admin(), &request).await;
        node.faults().disarm();
        if fault.ends_with("=kill") {
            node.kill9();
            node.restart();
        }
        nothing_is_left(&node, &fault, failed.is_err()).await;
        pull(&mut node.admin(), &request).await.unwrap();
    }
}

/// Makes as if the image had never been there.
async fn forget(node: &Node) {
    node.admin().image_delete("x-1").await.unwrap();
    for directory in ["images/layers", "images/content"] {
        for entry in fs_err::read_dir(node.data().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            // The prepared ones have a name.
            let named = fs_err::read_dir(node.data().join("images/names")).unwrap().any(|name| {
                let digest = path.file_name().unwrap().to_string_lossy().into_owned();
                fs_err::read_to_string(name.unwrap().path()).unwrap().contains(&digest)
            });
            if !named {
                base::files::remove_any(&path).unwrap();
            }
        }
    }
}

async fn nothing_is_left(node: &Node, fault: &str, failed: bool) {
    let there = node.admin().image("x-1").await;
    if there.is_ok() {
        // Only the last word was lost.
        assert!(fault.contains("committed") || !failed, "{fault}");
        return;
    }
    assert_eq!(refused(there).code, ErrorCode::ImageNotFound, "{fault}");
    // Content that was complete may stay until it is collected, and its layers with it.
    let whole = fault.contains("pull.assembled") || fault.contains("store.");
    until("nothing is left", async || {
        let layers = if whole { 0 } else { layers_of(node) };
        (layers == 0 && names(&node.data().join("incoming")) == 0).then_some(())
    })
    .await;
}
