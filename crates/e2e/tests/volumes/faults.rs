//! Something goes wrong at each step that is taken for volumes only.

use std::collections::BTreeSet;

use api::{CopyVolume, CreateVolume, client::ClientError};
use e2e::{Guest, Node, Options, agreed};

use crate::{at, create, request, to_read};

/// The places that are passed for volumes and nothing else, and the one where layers are prepared.
const PLACES: [&str; 4] = ["volume.", "volumes.", "link.raw", "copy.prepared"];
/// How it goes wrong: the daemon dies, or the disk is full.
const ACTIONS: [&str; 2] = ["kill", "enospc"];

/// What is done while something goes wrong.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Make,
    Clone,
    Delete,
    Attach,
    Destroy,
}

impl Operation {
    async fn act(self, node: &Node) -> Result<(), ClientError> {
        let mut client = node.admin();
        match self {
            Self::Make => {
                let request = CreateVolume { name: "new".to_owned(), size_mb: 16 };
                client.create_volume(&request).await.map(drop)
            }
            Self::Clone => {
                let request = CopyVolume { name: "new".to_owned() };
                client.copy_volume("data", &request).await.map(drop)
            }
            Self::Delete => client.delete_volume("new").await.map(drop),
            Self::Attach => {
                client.create(&request("other", &[at("new", "/new")]), drop).await.map(drop)
            }
            Self::Destroy => client.destroy("dev").await.map(drop),
        }
    }

    /// Brings about what the operation finds: a sandbox that writes to `data`, and `new` or not.
    async fn prepare(self, node: &Node) {
        let mut client = node.admin();
        if client.sandbox("dev").await.is_err() {
            let mut guest = create(node, "dev", &[at("data", "/data")]).await;
            guest.sh("echo kept > /data/f; sync").await;
        }
        if client.sandbox("other").await.is_ok() {
            client.destroy("other").await.unwrap();
        }
        let there = client.volume("new").await.is_ok();
        let wanted = matches!(self, Self::Delete | Self::Attach);
        if there && !wanted {
            client.delete_volume("new").await.unwrap();
        } else if wanted && !there {
            Self::Make.act(node).await.unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_if_a_step_for_volumes_fails_or_is_the_daemon_s_last() {
    let mut node = Node::with(&Options { faults: true, ..Options::default() });
    let request = CreateVolume { name: "data".to_owned(), size_mb: 16 };
    node.admin().create_volume(&request).await.unwrap();
    use Operation as O;
    for operation in [O::Make, O::Clone, O::Delete, O::Attach, O::Destroy] {
        operation.prepare(&node).await;
        node.faults().arm("");
        operation.act(&node).await.unwrap();
        node.faults().disarm();
        let passed = node.faults().passed().into_iter().map(|passing| passing.place);
        let ours = |place: &String| PLACES.iter().any(|ours| place.starts_with(ours));
        let places: BTreeSet<String> = passed.filter(ours).collect();
        assert!(!places.is_empty(), "{operation:?}");
        for place in &places {
            for action in ACTIONS {
                round(&mut node, operation, place, action).await;
            }
        }
    }
    let mut guest = match node.admin().sandbox("dev").await {
        Ok(dev) => Guest { client: node.admin(), id: dev.id },
        Err(_) => create(&node, "reader", &[at("data", "/data")]).await,
    };
    assert_eq!(guest.sh("cat /data/f").await, "kept");
}

async fn round(node: &mut Node, operation: Operation, place: &str, action: &str) {
    let when = format!("{operation:?} with {place}={action}");
    operation.prepare(node).await;
    node.faults().arm(&format!("{place}={action}"));
    let mut outcome = operation.act(node).await;
    node.faults().disarm();
    assert!(node.faults().happened(), "{when}");
    if let (Operation::Delete, Err(ClientError::Api(_))) = (operation, &outcome) {
        // What is half removed is good for nothing but to be removed.
        outcome = operation.act(node).await;
        outcome.as_ref().unwrap_or_else(|error| panic!("{when}, and again: {error}"));
    }
    if action == "kill" {
        node.ended().unwrap();
        node.restart();
    }
    let all = agreed(node, &when).await;
    match all.iter().find(|sandbox| sandbox.name == "dev") {
        // It goes on, and what it had written is there for it.
        Some(dev) => {
            let mut guest = Guest { client: node.admin(), id: dev.id.clone() };
            assert_eq!(guest.sh("cat /data/f; echo on > /data/on").await, "kept", "{when}");
        }
        None => {
            let mut reader = create(node, "reader", &[to_read("data", "/data")]).await;
            assert_eq!(reader.sh("cat /data/f").await, "kept", "{when}");
            reader.destroy().await;
        }
    }
    // Whatever has failed can be done again.
    if outcome.is_err() {
        operation.prepare(node).await;
        let again = operation.act(node).await;
        again.unwrap_or_else(|error| panic!("{when}, and again: {error}"));
    }
}
