//! Snapshots that are not what they were, or not for this host.

use std::path::{Path, PathBuf};

use api::{ErrorBody, ErrorCode, ResumeSnapshot, SnapshotType, StartFrom, StartedFrom, Status};
use e2e::{Guest, Living, Node, files_below, flip_bit, refused, truncate};

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One bit is another, at so many thousandths.
    Flip(usize),
    /// So many bytes are missing at the end.
    Cut(u64),
    /// It is not there.
    Gone,
}

impl Damage {
    fn to(self, file: &Path) {
        match self {
            Self::Flip(at) => flip_bit(file, at),
            Self::Cut(bytes) => truncate(file, bytes),
            Self::Gone => std::fs::remove_file(file).unwrap(),
        }
    }
}

/// What holds the memory, and how it is damaged.
const MEMORY: [(&str, Damage); 11] = [
    ("pages", Damage::Flip(0)),
    ("pages", Damage::Flip(500)),
    ("pages", Damage::Flip(999)),
    ("pages", Damage::Cut(1)),
    ("pages", Damage::Cut(u64::MAX)),
    ("pages", Damage::Gone),
    ("devices", Damage::Flip(500)),
    ("devices", Damage::Cut(1)),
    ("devices", Damage::Gone),
    ("manifest.json", Damage::Flip(500)),
    ("manifest.json", Damage::Cut(10)),
];

/// What everything else needs as well.
const REST: [(&str, Damage); 5] = [
    ("origin.json", Damage::Flip(500)),
    ("origin.json", Damage::Cut(10)),
    (".qcow2", Damage::Flip(0)),
    (".qcow2", Damage::Cut(u64::MAX)),
    (".qcow2", Damage::Cut(1 << 16)),
];

/// The file below a directory whose path ends like this, and a place to keep it meanwhile.
fn file(directory: &Path, end: &str) -> PathBuf {
    let mut found = files_below(directory);
    found.retain(|path| path.to_string_lossy().ends_with(end));
    // A start that failed may leave a layer that nothing needs above the others.
    if end == ".qcow2" {
        found.truncate(1);
    }
    found.pop().unwrap_or_else(|| panic!("no {end} in {}", directory.display()))
}

/// The newest memory snapshot of a sandbox.
fn snapshot_of(node: &Node, id: &str) -> PathBuf {
    let manifest = file(&node.data().join("sandboxes").join(id), "manifest.json");
    manifest.parent().unwrap().to_owned()
}

#[tokio::test]
async fn a_stopped_sandbox_whose_files_are_damaged_is_not_started_and_loses_no_more() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    guest.stop().await;
    let directory = node.data().join("sandboxes").join(&guest.id);
    for (end, damage) in MEMORY.into_iter().chain(REST) {
        let file = file(&directory, end);
        let kept = std::fs::read(&file).unwrap();
        damage.to(&file);
        let started = guest.start(None).await;
        assert!(started.is_err(), "{end} {damage:?} goes unnoticed");
        let body = refused(started);
        assert_eq!(body.code, ErrorCode::SnapshotCorrupt, "{end} {damage:?}: {body:?}");
        assert!(body.hint.is_some(), "{end} {damage:?}: {body:?}");
        let view = guest.view().await;
        assert_eq!(view.status, Status::Stopped, "{end} {damage:?}");
        assert!(node.monitors().is_empty(), "{end} {damage:?}");
        std::fs::write(&file, kept).unwrap();
    }
    // Nothing was lost by the attempts.
    assert_eq!(guest.start(None).await.unwrap().started_from, Some(StartedFrom::Snapshot));
    living.check(&mut guest, "repaired").await;
    guest.sh("echo kept > /tmp/other; sync").await;
    guest.stop().await;
    for (end, damage) in MEMORY {
        let file = snapshot_of(&node, &guest.id).join(end);
        damage.to(&file);
        let body = refused(guest.start(Some(StartFrom::Snapshot)).await);
        assert_eq!(body.code, ErrorCode::SnapshotCorrupt, "{end} {damage:?}: {body:?}");
        let hint = body.hint.unwrap_or_default();
        let way_out = hint.contains("bhatti start dev --from disk") && hint.contains("in memory");
        assert!(way_out, "{end} {damage:?}: {hint:?}");
        if !matches!(damage, Damage::Gone | Damage::Cut(1)) {
            continue;
        }
        let started = guest.start(Some(StartFrom::Disk)).await.unwrap();
        assert_eq!(started.started_from, Some(StartedFrom::Disk));
        assert_eq!(guest.sh("cat /tmp/other").await, "kept", "{end} {damage:?}");
        guest.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_made_of_a_snapshot_that_is_damaged() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    let memory = guest.checkpoint("memory").await.snapshot;
    let disk = guest.checkpoint_disk("disk").await.snapshot;
    let mut client = node.admin();
    guest.destroy().await;
    for snapshot in [&memory, &disk] {
        let directory = node.data().join("snapshots").join(&snapshot.id);
        let held = match snapshot.kind {
            SnapshotType::Memory => &MEMORY[..],
            _ => &[],
        };
        for (end, damage) in held.iter().copied().chain(REST) {
            let file = file(&directory, end);
            let kept = std::fs::read(&file).unwrap();
            damage.to(&file);
            let wanted = ResumeSnapshot { name: Some("copy".to_owned()) };
            let body = refused(client.resume_snapshot(&snapshot.name, &wanted).await);
            let case = format!("{} {end} {damage:?}: {body:?}", snapshot.name);
            assert_eq!(body.code, ErrorCode::SnapshotCorrupt, "{case}");
            assert!(body.hint.is_some_and(|hint| hint.contains(&snapshot.name)), "{case}");
            assert!(client.sandboxes(&[]).await.unwrap().is_empty(), "{case}");
            assert!(node.monitors().is_empty(), "{case}");
            let left = std::fs::read_dir(node.data().join("sandboxes")).unwrap().count();
            assert_eq!(left, 0, "{case}");
            std::fs::write(&file, kept).unwrap();
        }
        assert_eq!(client.snapshot(&snapshot.name).await.unwrap().name, snapshot.name);
    }
    let mut copy = Guest::resumed(node.admin(), "memory", "copy").await;
    living.check(&mut copy, "repaired").await;
    copy.destroy().await;
    Guest::resumed(node.admin(), "disk", "copy").await.sh("test -s /tmp/kept").await;
}

/// Changes what a description says without damaging it.
fn rewrite(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    let text = text.replacen(from, to, 1);
    let sealed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let begin = text.find("\"body\":").unwrap() + "\"body\":".len();
    let body = compact(&text[begin..text.rfind('}').unwrap()]);
    let old = sealed["sha256"].as_str().unwrap();
    std::fs::write(path, text.replacen(old, &base::hash::bytes(body.as_bytes()), 1)).unwrap();
}

/// JSON without the space between its parts.
fn compact(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let kept = |c: &char| {
        let keep = inside || !c.is_ascii_whitespace();
        if *c == '"' && !escaped {
            inside = !inside;
        }
        escaped = *c == '\\' && !escaped;
        keep
    };
    json.chars().filter(kept).collect()
}

#[tokio::test]
async fn memory_of_another_host_is_refused_and_the_difference_is_named() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("echo kept > /tmp/kept; sync").await;
    let taken = guest.checkpoint("base").await.snapshot;
    guest.stop().await;
    let named = file(&node.data().join("snapshots").join(&taken.id), "manifest.json");
    let own = snapshot_of(&node, &guest.id).join("manifest.json");
    let engine = {
        let text = std::fs::read_to_string(&own).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        manifest.pointer("/body/facts/fingerprint/engine").unwrap().as_str().unwrap().to_owned()
    };
    for path in [&named, &own] {
        rewrite(path, &engine, "another engine 9.9");
    }
    let tell = |body: ErrorBody| {
        assert_eq!(body.code, ErrorCode::SnapshotIncompatible, "{body:?}");
        assert!(body.error.contains("another engine 9.9"), "{body:?}");
        assert!(body.error.contains(&engine), "{body:?}");
        body.hint.unwrap_or_else(|| panic!("no hint: {:?}", body.error))
    };
    let wanted = ResumeSnapshot { name: Some("copy".to_owned()) };
    tell(refused(guest.client.resume_snapshot("base", &wanted).await));
    assert_eq!(guest.client.sandboxes(&[]).await.unwrap().len(), 1);
    let hint = tell(refused(guest.start(None).await));
    assert!(hint.contains("--from disk"), "{hint}");
    assert!(node.monitors().is_empty());

    for path in [&named, &own] {
        rewrite(path, "another engine 9.9", &engine);
        rewrite(path, "\"cpus\": 1", "\"cpus\": 2");
    }
    let body = refused(guest.client.resume_snapshot("base", &wanted).await);
    assert_eq!(body.code, ErrorCode::SnapshotIncompatible, "{body:?}");
    assert!(body.error.contains("vCPUs 2, now 1"), "{body:?}");
    assert_eq!(refused(guest.start(None).await).code, ErrorCode::SnapshotIncompatible);
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    assert_eq!(guest.sh("cat /tmp/kept").await, "kept");
    rewrite(&named, "\"cpus\": 2", "\"cpus\": 1");
    Guest::resumed(node.admin(), "base", "copy").await.sh("cat /tmp/kept").await;
}
