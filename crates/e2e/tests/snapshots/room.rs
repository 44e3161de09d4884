//! A host whose disk is full.

use std::path::PathBuf;

use api::{ErrorCode, ResumeSnapshot, SnapshotType, Status};
use e2e::{Guest, Living, Node, Options, files_below, refused};

/// Leaves no room where sandboxes and snapshots lie.
fn fill(node: &Node) -> PathBuf {
    let filler = node.data().join("small/filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    filler
}

/// All files of sandboxes and snapshots.
fn files(node: &Node) -> Vec<PathBuf> {
    ["sandboxes", "snapshots"]
        .iter()
        .flat_map(|name| files_below(&node.data().join(name)))
        .collect()
}

#[tokio::test]
async fn a_full_disk_of_the_host_fails_a_copy_and_nothing_else() {
    let node = Node::with(&Options { sandboxes_bytes: Some(256 << 20), ..Options::default() });
    node.expect_warning("code=host_disk_full");
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    guest.sh("dd if=/dev/urandom of=/dev/shm/r bs=65536 count=64 2>/dev/null").await;
    living.check(&mut guest, "before").await;
    assert_eq!(Living::ask(&mut guest).await, 1);
    guest.checkpoint("early").await;
    guest.sh("sync").await;
    let monitor = node.monitor(&guest.id);

    let filler = fill(&node);
    let before = files(&node);
    for _ in 0..2 {
        let memory = refused(guest.snapshot_of("s", SnapshotType::Memory).await);
        let fork = refused(guest.copies("f", 2).await);
        let again = ResumeSnapshot { name: Some("r".to_owned()) };
        let resumed = refused(guest.client.resume_snapshot("early", &again).await);
        for body in [memory, fork, resumed] {
            assert_eq!(body.code, ErrorCode::HostDiskFull, "{body:?}");
            assert!(body.hint.is_some(), "{body:?}");
        }
        assert_eq!(files(&node), before, "something half-made stays");
        assert_eq!(guest.client.sandboxes(&[]).await.unwrap().len(), 1);
        assert_eq!(guest.client.snapshots().await.unwrap().len(), 1);
        assert_eq!(guest.view().await.status, Status::Running);
        assert_eq!(node.monitors(), [(monitor, guest.id.clone())]);
    }
    std::fs::remove_file(filler).unwrap();

    living.check(&mut guest, "the source").await;
    guest.checkpoint("s").await;
    let mut copies = guest.fork("f", 2, || node.admin()).await;
    copies.push(Guest::resumed(node.admin(), "s", "r").await);
    for copy in copies.iter_mut().chain([&mut guest]) {
        living.check(copy, "with room again").await;
        assert_eq!(Living::ask(copy).await, 2);
    }
}
