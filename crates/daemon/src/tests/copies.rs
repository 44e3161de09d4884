//! Snapshots, forks and edits, up to where a VM is needed.

use std::{collections::BTreeMap, sync::Arc};

use api::{Deleted, IdleTime, MAX_FORKS, Snapshot, SnapshotType};
use base::ids::{SandboxId, SnapshotId};
use orchestrator::{
    model::{NetworkSpec, SnapshotKind, Spec},
    store::{Identity, Likeness, SnapshotRecord, SnapshotState},
};

use super::*;
use crate::testing::{Served, failure};

/// Routes of a sandbox named `box` that take a body, each with one that makes sense.
const OF_A_SANDBOX: [(&str, &str, &str); 3] = [
    ("POST", "/sandboxes/box/checkpoint", r#"{"name":"s"}"#),
    ("POST", "/sandboxes/box/fork", "{}"),
    ("PATCH", "/sandboxes/box", "{}"),
];

async fn code(served: &Served, method: &str, path: &str, body: &str) -> ErrorCode {
    let request = served.request(method, path).body(Body::from(body.to_owned())).unwrap();
    failure(served.send(request).await).await.code
}

#[tokio::test]
async fn what_an_owner_asks_of_a_sandbox_is_checked_before_anything_is_done() {
    let (served, _agent) = Served::new().await;
    for (method, path, _) in OF_A_SANDBOX {
        assert_eq!(code(&served, method, path, "[").await, ErrorCode::InvalidJson, "{path}");
        let odd = code(&served, method, path, r#"{"nmae":"s"}"#).await;
        assert_eq!(odd, ErrorCode::UnknownField, "{path}");
    }
    let checkpoint = "/sandboxes/box/checkpoint";
    assert_eq!(code(&served, "POST", checkpoint, "{}").await, ErrorCode::InvalidJson);
    let odd = r#"{"name":"s","type":"filesystem"}"#;
    assert_eq!(code(&served, "POST", checkpoint, odd).await, ErrorCode::InvalidRequest);
    for count in [0, MAX_FORKS + 1] {
        let many = format!(r#"{{"count":{count}}}"#);
        let refused = code(&served, "POST", "/sandboxes/box/fork", &many).await;
        assert_eq!(refused, ErrorCode::InvalidRequest);
    }
    for bad in [r#"{"idle_warm_sec":0}"#, r#"{"idle_cold_sec":"5m"}"#, r#"{"keep_hot":1}"#] {
        let refused = code(&served, "PATCH", "/sandboxes/box", bad).await;
        assert_eq!(refused, ErrorCode::InvalidJson, "{bad}");
    }
    let odd = r#"{"name":"s","extra":1}"#;
    let refused = code(&served, "POST", "/snapshots/s/resume", odd).await;
    assert_eq!(refused, ErrorCode::UnknownField);
}

#[tokio::test]
async fn nobody_copies_or_changes_a_sandbox_of_somebody_else() {
    let (mut served, _agent) = Served::new().await;
    let store = served.app.orchestrator.store().clone();
    let (_, stranger) = store.create_user("v", false, UserLimits::default()).await.unwrap();
    let (_, admin) = store.create_user("w", true, UserLimits::default()).await.unwrap();
    for key in [stranger, admin] {
        served.key = key;
        for (method, path, body) in OF_A_SANDBOX {
            let refused = code(&served, method, path, body).await;
            assert_eq!(refused, ErrorCode::SandboxNotFound, "{method} {path}");
        }
    }
}

/// A snapshot of that user that is listed; there are no files of it.
async fn keep(store: &Store, owner: &str, name: &str) -> String {
    let record = SnapshotRecord {
        id: SnapshotId::random(),
        owner: owner.parse().unwrap(),
        name: name.parse().unwrap(),
        kind: SnapshotKind::Disk,
        source: "dev".parse().unwrap(),
        spec: Arc::new(Spec {
            network: NetworkSpec::default(),
            volumes: Vec::new(),
            image: "minimal".parse().unwrap(),
            cpus: 1,
            memory_mib: 256,
            disk_mib: 1024,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            init: None,
            no_init: false,
            build: None,
        }),
        likeness: Likeness { sandbox_id: SandboxId::random(), identity: Identity::random() },
        state: SnapshotState::Ready,
        created_at: 0,
    };
    store.insert_snapshot(&record, 9).await.unwrap();
    record.id.into()
}

#[tokio::test]
async fn a_snapshot_of_somebody_else_looks_like_none_at_all() {
    let node = Node::new().await;
    let owner = node.store.user_by_key(&node.user_key).unwrap();
    let (_, stranger) = node.store.create_user("v", false, UserLimits::default()).await.unwrap();
    let id = keep(&node.store, owner.id.as_str(), "s").await;
    keep(&node.store, owner.id.as_str(), "a").await;

    for key in [&stranger, &node.admin_key] {
        for (method, path) in [
            (Method::GET, "/snapshots/s"),
            (Method::GET, &format!("/snapshots/{id}")),
            (Method::DELETE, "/snapshots/s"),
            (Method::POST, "/snapshots/s/resume"),
        ] {
            let refused = node.refused(method.clone(), path, key, "").await;
            assert_eq!(refused.code, ErrorCode::SnapshotNotFound, "{method} {path}");
        }
        let none = node.send(request(Method::GET, "/snapshots", key, "")).await;
        assert!(json::<Vec<Snapshot>>(none).await.is_empty());
    }

    let key = &node.user_key;
    let listed = node.send(request(Method::GET, "/snapshots", key, "")).await;
    let listed: Vec<Snapshot> = json(listed).await;
    assert_eq!(listed.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a", "s"]);
    let path = format!("/snapshots/{id}");
    let found: Snapshot = json(node.send(request(Method::GET, &path, key, "")).await).await;
    assert_eq!(found, listed[1]);
    assert_eq!((found.id.as_str(), found.kind), (id.as_str(), SnapshotType::Disk));
    assert_eq!(
        (found.created_by.as_str(), found.source_sandbox.as_str()),
        (owner.id.as_str(), "dev")
    );
    assert_eq!((found.memory_mb, found.disk_size_mb, found.size_mb), (256, 1024, 0));

    let deleted = node.send(request(Method::DELETE, "/snapshots/s", key, "")).await;
    assert_eq!(deleted.status(), StatusCode::OK);
    let deleted: Deleted = json(deleted).await;
    assert_eq!(
        (deleted.status.as_str(), deleted.id, deleted.name),
        ("deleted", id, "s".to_owned())
    );
    let gone = node.refused(Method::GET, "/snapshots/s", key, "").await;
    assert_eq!(gone.code, ErrorCode::SnapshotNotFound);
}

#[tokio::test]
async fn admins_say_what_users_may_have_and_when_their_sandboxes_sleep() {
    let node = Node::new().await;
    let body = r#"{"name":"new","max_snapshots":3,"idle_warm_sec":60,"idle_cold_sec":"default"}"#;
    let made = node.send(request(Method::POST, "/users", &node.admin_key, body)).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: UserKey = json(made).await;
    assert_eq!((made.user.max_snapshots, made.user.max_sandboxes), (3, 5));
    assert_eq!(made.user.idle_warm_sec, Some(IdleTime::After(60)));
    assert_eq!(made.user.idle_cold_sec, None);

    let edit = async |body: &str| -> User {
        let edit = request(Method::PATCH, "/users/new", &node.admin_key, body.to_owned());
        let edited = node.send(edit).await;
        assert_eq!(edited.status(), StatusCode::OK);
        json(edited).await
    };
    let all = r#"{"max_sandboxes":7,"max_cpus_per_sandbox":2,"max_memory_mb_per_sandbox":512,
        "max_snapshots":9,"idle_warm_sec":"default","idle_cold_sec":"never"}"#;
    let edited = edit(all).await;
    assert_eq!((edited.max_sandboxes, edited.max_cpus_per_sandbox), (7, 2));
    assert_eq!((edited.max_memory_mb_per_sandbox, edited.max_snapshots), (512, 9));
    assert_eq!((edited.idle_warm_sec, edited.idle_cold_sec), (None, Some(IdleTime::Never)));
    assert_eq!(edit("{}").await, edited);
    let listed: Vec<User> =
        json(node.send(request(Method::GET, "/users", &node.admin_key, "")).await).await;
    assert_eq!(listed.into_iter().find(|user| user.name == "new"), Some(edited));

    let key = &node.admin_key;
    let refused = node.refused(Method::PATCH, "/users/none", key, "{}").await;
    assert_eq!(refused.code, ErrorCode::UserNotFound);
    let refused = node.refused(Method::PATCH, "/users/new", key, r#"{"name":"x"}"#).await;
    assert_eq!(refused.code, ErrorCode::UnknownField);
    let refused = node.refused(Method::PATCH, "/users/new", &made.api_key, "{}").await;
    assert_eq!(refused.code, ErrorCode::Forbidden);
}
