//! Something goes wrong while what stood ready becomes somebody's.

use api::{ErrorCode, client::ClientError};
use e2e::{Content, Found, Guest, Node, agreed, create_request, until};

use crate::{
    ready,
    volumes::{at, request, volume, warm_for},
    warm,
};

/// All that can go wrong at a place: the daemon dies, its monitors do, both, the disk is full or broken.
const ACTIONS: [&str; 5] = ["kill", "vmm", "both", "enospc", "eio"];

/// Lets something go wrong while `act` runs. Says whether it was done; if the daemon died of it, there is
/// another.
async fn wrong(
    node: &mut Node,
    fault: &str,
    act: impl AsyncFnOnce(&Node) -> Result<(), ClientError>,
) -> bool {
    node.faults().arm(fault);
    let done = act(node).await;
    node.faults().disarm();
    assert!(node.faults().happened(), "{fault}: the place was not passed");
    if fault.ends_with("kill") || fault.ends_with("both") {
        node.ended().expect("the daemon ran");
        node.restart();
    }
    if let Err(ClientError::Api(body)) = &done {
        assert_ne!(body.code, ErrorCode::Internal, "{fault}: {body:?}");
    }
    done.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_is_whole_or_nothing() {
    let mut node = ready(true).await;
    for place in ["create.around", "create.connected"] {
        for action in ACTIONS {
            let fault = format!("{place}={action}");
            let made = wrong(&mut node, &fault, async |node| {
                node.admin().create(&create_request("made"), drop).await.map(drop)
            });
            let made = made.await;
            let all = agreed(&node, &fault).await;
            let there: Vec<&str> = all.iter().map(|sandbox| sandbox.name.as_str()).collect();
            assert_eq!(there.contains(&"made"), made, "{fault}: {there:?}");
            // What is no use is as good as not there: only without a daemon nothing comes of it.
            assert_eq!(made, ["vmm", "enospc", "eio"].contains(&action), "{fault}");
            if made {
                let mut guest = Guest { client: node.admin(), id: "made".to_owned() };
                assert_eq!(guest.sh("hostname").await, "made", "{fault}");
                guest.client.destroy("made").await.unwrap();
            }
            warm(&node).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_whole_whatever_becomes_of_who_is_to_have_it() {
    let mut node = ready(true).await;
    volume(&node, "data").await;
    let wanted = request("made", &[at("data", "/data")]);
    let mut guest = Guest::create_by(node.admin(), wanted.clone()).await;
    guest.sh("echo kept > /data/kept").await;
    guest.destroy().await;
    for action in ACTIONS {
        warm_for(&node, &wanted).await;
        let fault = format!("volumes.shown={action}");
        let made = wrong(&mut node, &fault, async |node| {
            node.admin().create(&wanted, drop).await.map(drop)
        });
        let made = made.await;
        agreed(&node, &fault).await;
        assert_eq!(made, ["vmm", "enospc", "eio"].contains(&action), "{fault}");
        if !made {
            node.admin().create(&wanted, drop).await.unwrap();
        }
        let mut guest = Guest { client: node.admin(), id: "made".to_owned() };
        assert_eq!(guest.sh("cat /data/kept; echo more >> /data/more").await, "kept", "{fault}");
        guest.destroy().await;
    }
    let mut guest = Guest::create_by(node.admin(), wanted).await;
    let written = guest.sh("wc -l < /data/more").await;
    assert_eq!(written.trim(), ACTIONS.len().to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_ready_is_tried_once_for_each_start() {
    let node = ready(true).await;
    let tries = || {
        let passed = node.faults().passed();
        passed.iter().filter(|passing| passing.place == "spare.started").count()
    };
    let faults: Vec<String> = (1..100).map(|n| format!("spare.started@{n}=enospc")).collect();
    node.faults().arm(&faults.join(","));
    for starts in 1..=3 {
        let mut guest = Guest::create(&node, &format!("box-{starts}")).await;
        until("it was tried", async || (tries() >= starts).then_some(())).await;
        // Long enough for hundreds of tries.
        guest.sh("sleep 1").await;
        assert_eq!(tries(), starts);
    }
    node.faults().disarm();
    Guest::create(&node, "last").await;
    node.stands_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_loses_nothing() {
    let mut node = ready(true).await;
    let mut guest = Guest::create(&node, "kept").await;
    let content = Content::plant(&mut guest).await;
    for action in ACTIONS {
        guest.stop().await;
        node.stands_ready().await;
        let fault = format!("spare.claimed={action}");
        let woken = wrong(&mut node, &fault, async |node| {
            node.admin().start("kept", &api::StartSandbox::default(), drop).await.map(drop)
        });
        // A monitor that has its disk already is as good as one that was started for it.
        assert_eq!(woken.await, ["enospc", "eio"].contains(&action), "{fault}");
        agreed(&node, &fault).await;
        guest.client = node.admin();
        content.check(&mut guest, Found::Everything, &fault).await;
        warm(&node).await;
    }
}
