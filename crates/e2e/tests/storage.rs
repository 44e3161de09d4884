//! Room on the host's disk, and giving it back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{Prune, Pruned, Storage};
use e2e::{Content, Found, Guest, Node, Options};

/// A node whose templates are its own.
fn node() -> Node {
    Node::with(&Options { recorded_templates: false, ..Options::default() })
}

fn of(storage: &Storage, kind: &str) -> (u64, u64, u64) {
    let one = storage.uses.iter().find(|one| one.kind == kind).unwrap();
    (one.count, one.bytes, one.reclaimable_bytes)
}

fn kinds(pruned: &Pruned) -> Vec<&str> {
    pruned.removed.iter().map(|one| one.kind.as_str()).collect()
}

const ALL: Prune = Prune { all: true, dry_run: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sandbox_or_a_snapshot_was_made_of_stays_until_they_go() {
    let node = node();
    let mut admin = node.admin();
    let mut guest = Guest::create(&node, "box").await;
    let content = Content::plant(&mut guest).await;
    let storage = admin.storage().await.unwrap();
    let (templates, bytes, reclaimable) = of(&storage, "templates");
    assert_eq!((templates, reclaimable), (1, 0));
    assert!(bytes > 1 << 20 && storage.bytes >= bytes && storage.free_bytes > 0, "{storage:?}");
    assert_eq!(of(&storage, "sandboxes").0, 1);

    assert_eq!(admin.prune(&ALL).await.unwrap().removed, []);
    guest.client.stop("box", drop).await.unwrap();
    assert_eq!(admin.prune(&ALL).await.unwrap().removed, []);
    content.check(&mut guest, Found::Everything, "after a prune").await;

    let request = api::CreateSnapshot { name: "kept".into(), kind: None };
    admin.checkpoint("box", &request).await.unwrap();
    admin.destroy("box").await.unwrap();
    assert_eq!(admin.prune(&ALL).await.unwrap().removed, []);
    let resumed = api::ResumeSnapshot { name: Some("again".into()) };
    let resumed = admin.resume_snapshot("kept", &resumed).await.unwrap();
    let mut again = Guest { client: node.admin(), id: resumed.id };
    content.check(&mut again, Found::Everything, "in what was made of the snapshot").await;
    admin.destroy("again").await.unwrap();
    admin.delete_snapshot("kept").await.unwrap();

    let idle = admin.prune(&Prune::default()).await.unwrap();
    assert_eq!(idle.removed, [], "the next create would take it");
    let dry = admin.prune(&Prune { dry_run: true, ..ALL }).await.unwrap();
    assert_eq!(kinds(&dry), ["templates"]);
    let pruned = admin.prune(&ALL).await.unwrap();
    assert_eq!((kinds(&pruned), pruned.bytes), (vec!["templates"], dry.bytes));
    assert!(pruned.bytes > 1 << 20);
    let storage = admin.storage().await.unwrap();
    assert_eq!((of(&storage, "templates").0, of(&storage, "sandboxes").0), (0, 0));
    let left = fs_err::read_dir(node.data().join("templates")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["keys"]);

    Guest::create(&node, "new").await.sh("true").await;
    assert_eq!(of(&admin.storage().await.unwrap(), "templates").0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_told_apart_from_something_needed_stays() {
    let mut node = node();
    let mut guest = Guest::create(&node, "box").await;
    guest.client.stop("box", drop).await.unwrap();
    let id = guest.id.clone();
    node.expect_warning("is set aside");
    node.expect_warning("half-made files could not be removed");
    node.kill9();
    // As if the store had been replaced by an older copy.
    let sandboxes = node.data().join("sandboxes");
    fs_err::rename(sandboxes.join(&id), sandboxes.join("0123456789abcdef")).unwrap();
    node.restart();
    let mut admin = node.admin();
    let storage = admin.storage().await.unwrap();
    assert_eq!(of(&storage, "lost").0, 1, "{storage:?}");
    assert_eq!(admin.prune(&ALL).await.unwrap().removed, []);

    let lost = sandboxes.join("lost-0123456789abcdef");
    fs_err::write(lost.join("origin.json"), "nonsense").unwrap();
    let error = admin.prune(&ALL).await.unwrap_err();
    assert_eq!(error.api_code(), Some(&api::ErrorCode::StorageUnclear));
    assert!(error.to_string().contains("lost-0123456789abcdef"), "{error}");
    fs_err::remove_dir_all(lost).unwrap();
    assert_eq!(kinds(&admin.prune(&ALL).await.unwrap()), ["templates"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_admin_sees_and_removes_what_all_have() {
    let node = Node::with(&Options::default());
    let key = node.user(api::CreateUser { name: "alice".into(), ..Default::default() }).await;
    let mut user = node.client(&key);
    for refused in
        [user.storage().await.map(drop).unwrap_err(), user.prune(&ALL).await.map(drop).unwrap_err()]
    {
        assert_eq!(refused.api_code(), Some(&api::ErrorCode::Forbidden));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_at_the_same_time_lose_nothing_to_a_prune() {
    let node = node();
    Guest::create(&node, "first").await.client.destroy("first").await.unwrap();
    let pruning = async {
        let mut admin = node.admin();
        let mut removed = 0;
        for _ in 0..20 {
            removed += admin.prune(&ALL).await.unwrap().removed.len();
        }
        removed
    };
    let creating = async {
        for round in 0..4 {
            let name = format!("box-{round}");
            let mut guest = Guest::create(&node, &name).await;
            guest.sh("true").await;
            guest.client.destroy(&name).await.unwrap();
        }
    };
    let (removed, ()) = tokio::join!(pruning, creating);
    assert!(removed > 0, "nothing was pruned");
}
