//! Snapshots, forks and edits, up to where a VM is needed.

use api::{IdleTime, MAX_FORKS};

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
