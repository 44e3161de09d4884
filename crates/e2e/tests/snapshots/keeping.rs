//! What snapshots take, how they are called, and whose they are.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _, path::Path};

use api::{CreateUser, EditUser, ErrorCode, ResumeSnapshot, SnapshotType};
use e2e::{Guest, Node, Options, create_request, files_below, refused};

/// What a fresh, idle snapshot may take, bytes.
const SMALL: u64 = 15 << 20;

/// What files below a directory take, bytes, each counted once.
fn taken_by(directory: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let files = files_below(directory).into_iter().map(|path| std::fs::metadata(path).unwrap());
    files.filter(|meta| seen.insert(meta.ino())).map(|meta| meta.blocks() * 512).sum()
}

fn free(node: &Node) -> u64 {
    let system = rustix::fs::statvfs(node.data().join("small")).unwrap();
    system.f_bfree * system.f_frsize
}

#[tokio::test]
async fn a_snapshot_takes_what_it_says_and_gives_back_what_it_says() {
    let node = Node::with(&Options { sandboxes_bytes: Some(512 << 20), ..Options::default() });
    let mut guest = Guest::create(&node, "dev").await;
    let fresh = guest.checkpoint("fresh").await.snapshot;
    assert!(fresh.size_bytes <= SMALL, "a fresh snapshot takes {} bytes", fresh.size_bytes);
    guest.sh("dd if=/dev/urandom of=/tmp/disk bs=65536 count=64 2>/dev/null; sync; dd if=/dev/urandom of=/dev/shm/m bs=65536 count=64 2>/dev/null").await;
    let full = guest.checkpoint("full").await.snapshot;
    assert!(full.size_bytes > fresh.size_bytes + (8 << 20), "{full:?} after {fresh:?}");
    assert_eq!(full.size_mb, full.size_bytes.div_ceil(1 << 20));
    let mut copy = Guest::resumed(node.admin(), "full", "copy").await;
    copy.sh("dd if=/dev/urandom of=/tmp/disk bs=65536 count=64 2>/dev/null; sync").await;
    let child = copy.checkpoint("child").await.snapshot;
    // Nothing else writes from here on.
    guest.stop().await;
    copy.destroy().await;

    let shown = guest.client.snapshots().await.unwrap();
    assert_eq!(
        shown.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        ["child", "fresh", "full"]
    );
    for snapshot in &shown {
        let directory = node.data().join("snapshots").join(&snapshot.id);
        assert_eq!(snapshot.size_bytes, taken_by(&directory), "{snapshot:?}");
        assert!(snapshot.own_bytes <= snapshot.size_bytes);
    }
    assert!(shown.iter().any(|snapshot| snapshot.own_bytes < snapshot.size_bytes));
    // What the last of them shares with nobody any more is its own.
    for name in ["full", "child", "fresh"] {
        let (before, told) = (free(&node), guest.client.snapshot(name).await.unwrap().own_bytes);
        guest.client.delete_snapshot(name).await.unwrap();
        assert_eq!(free(&node) - before, told, "{name} gives back another amount");
    }
    assert!(child.size_bytes > 0);
    assert!(files_below(&node.data().join("snapshots")).is_empty());
    guest.sh("test $(stat -c %s /tmp/disk) = 4194304").await;
}

#[tokio::test]
async fn names_are_the_owner_s_and_limits_hold() {
    let node = Node::start();
    let limits = |name: &str| CreateUser {
        name: name.to_owned(),
        max_snapshots: Some(2),
        max_sandboxes: Some(2),
        ..CreateUser::default()
    };
    let (ann, bob) = (node.user(limits("ann")).await, node.user(limits("bob")).await);
    let mut guest = Guest::create_by(node.client(&ann), create_request("dev")).await;
    let mut other = Guest::create_by(node.client(&bob), create_request("dev")).await;

    for bad in ["", "-x", "a/b", "../x", "A b", &"x".repeat(200)] {
        let body = refused(guest.snapshot_of(bad, SnapshotType::Memory).await);
        assert_eq!(body.code, ErrorCode::InvalidName, "{bad:?}: {body:?}");
    }
    let base = guest.checkpoint("base").await.snapshot;
    let twice = refused(guest.snapshot_of("base", SnapshotType::Disk).await);
    assert_eq!(twice.code, ErrorCode::SnapshotExists, "{twice:?}");
    assert!(twice.hint.is_some(), "{twice:?}");
    other.checkpoint("base").await;
    guest.checkpoint("second").await;
    let many = refused(guest.snapshot_of("third", SnapshotType::Memory).await);
    assert_eq!(many.code, ErrorCode::QuotaSnapshots, "{many:?}");
    assert_eq!(guest.client.snapshots().await.unwrap().len(), 2);
    assert_eq!(files_of(&node), 3);

    // Somebody else's looks like none, by id as well.
    let none = refused(other.client.snapshot("nothing").await);
    for name in ["second", &base.id] {
        let resume = other.client.resume_snapshot(name, &ResumeSnapshot::default()).await;
        let looks = [
            refused(other.client.snapshot(name).await),
            refused(other.client.delete_snapshot(name).await),
            refused(resume),
        ];
        for body in looks {
            assert_eq!((&body.code, body.hint.as_ref()), (&none.code, none.hint.as_ref()));
            assert_eq!(body.error, none.error.replace("nothing", name));
        }
    }
    assert_eq!(none.code, ErrorCode::SnapshotNotFound);
    assert_eq!(guest.client.snapshot(&base.id).await.unwrap().name, "base");

    // Copies count against the limit, and names of sandboxes are not taken twice.
    let taken = ResumeSnapshot { name: Some("dev".to_owned()) };
    let body = refused(guest.client.resume_snapshot("base", &taken).await);
    assert_eq!(body.code, ErrorCode::NameTaken);
    let unnamed = guest.client.resume_snapshot("base", &ResumeSnapshot::default()).await.unwrap();
    assert!(unnamed.name.starts_with("base-"), "{unnamed:?}");
    let over = refused(guest.client.resume_snapshot("base", &ResumeSnapshot::default()).await);
    assert_eq!(over.code, ErrorCode::QuotaSandboxes);
    assert_eq!(guest.client.sandboxes(&[]).await.unwrap().len(), 2);

    let me =
        node.admin().users().await.unwrap().into_iter().find(|user| user.name == "ann").unwrap();
    let more = EditUser { max_snapshots: Some(3), ..EditUser::default() };
    node.admin().edit_user(&me.id, &more).await.unwrap();
    guest.checkpoint("third").await;

    guest.client.delete_snapshot("base").await.unwrap();
    let again = refused(guest.client.delete_snapshot("base").await);
    assert_eq!(again.code, ErrorCode::SnapshotNotFound);
    guest.checkpoint("base").await;
}

fn files_of(node: &Node) -> usize {
    std::fs::read_dir(node.data().join("snapshots")).unwrap().count()
}

#[tokio::test]
async fn snapshots_outlive_sandboxes_and_daemons() {
    let mut node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("echo memory > /dev/shm/f; echo disk > /tmp/f").await;
    let taken = guest.checkpoint("base").await.snapshot;
    guest.destroy().await;
    node.kill9();
    node.restart();
    let kept = node.admin().snapshot("base").await.unwrap();
    // The layers that it shared are its own now.
    assert_eq!(kept, api::Snapshot { own_bytes: kept.size_bytes, ..taken });
    let mut copy = Guest::resumed(node.admin(), "base", "dev").await;
    assert_eq!(copy.sh("cat /dev/shm/f /tmp/f; hostname").await, "memory\ndisk\ndev");
}
