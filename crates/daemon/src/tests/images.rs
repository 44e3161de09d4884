//! Images and tasks, up to where a registry or a VM is needed.

use api::{Image, PullStarted, Task, TaskStatus};

use super::*;

async fn code(node: &Node, method: Method, path: &str, body: &str) -> ErrorCode {
    node.refused(method, path, &node.user_key, body).await.code
}

#[tokio::test]
async fn nobody_without_a_key_learns_of_images_and_tasks() {
    let node = Node::new().await;
    for (method, path) in [
        (Method::GET, "/images/a"),
        (Method::DELETE, "/images/a"),
        (Method::POST, "/images/pull"),
        (Method::POST, "/images/import?name=a"),
        (Method::GET, "/images/a/export"),
        (Method::POST, "/images/a/share"),
        (Method::DELETE, "/images/a/share?user=b"),
        (Method::GET, "/tasks/a"),
        (Method::DELETE, "/tasks/a"),
    ] {
        let keyless = node.refused(method.clone(), path, "", "{}").await;
        assert_eq!(keyless.code, ErrorCode::Unauthorized, "{method} {path}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let node = Node::new().await;
    for (body, expected) in [
        ("[", ErrorCode::InvalidJson),
        ("{}", ErrorCode::InvalidJson),
        (r#"{"ref":"a","nmae":"b"}"#, ErrorCode::UnknownField),
        (r#"{"ref":"A B"}"#, ErrorCode::InvalidName),
        (r#"{"ref":"https://ghcr.io/x"}"#, ErrorCode::InvalidName),
        (r#"{"ref":"x","name":"../x"}"#, ErrorCode::InvalidName),
        (r#"{"ref":"x","name":"import"}"#, ErrorCode::InvalidName),
        (r#"{"ref":"ghcr.io/team/pull"}"#, ErrorCode::InvalidName),
        (r#"{"ref":"x","auth":"no-colon"}"#, ErrorCode::InvalidRequest),
        (r#"{"ref":"x","global":true}"#, ErrorCode::PermissionDenied),
    ] {
        assert_eq!(code(&node, Method::POST, "/images/pull", body).await, expected, "{body}");
    }
    let import = |query: &'static str| code(&node, Method::POST, query, "");
    assert_eq!(import("/images/import").await, ErrorCode::InvalidRequest);
    assert_eq!(import("/images/import?name=a/b").await, ErrorCode::InvalidName);
    assert_eq!(import("/images/import?name=pull").await, ErrorCode::InvalidName);
    for (method, path, body) in [
        (Method::GET, "/images/a", ""),
        (Method::DELETE, "/images/a", ""),
        (Method::GET, "/images/a/export", ""),
        (Method::POST, "/images/a/share", r#"{"users":["u"]}"#),
        (Method::DELETE, "/images/a/share?user=u", ""),
    ] {
        let refused = code(&node, method, path, body).await;
        assert_eq!(refused, ErrorCode::ImageNotFound, "{path}");
    }
    assert_eq!(code(&node, Method::GET, "/tasks/a", "").await, ErrorCode::TaskNotFound);
    assert_eq!(code(&node, Method::DELETE, "/tasks/a", "").await, ErrorCode::TaskNotFound);
}

#[tokio::test]
async fn a_pull_is_a_task_of_its_owner_s_that_tells_why_it_failed() {
    let node = Node::new().await;
    // Nobody but an admin may have this host ask itself.
    let body = r#"{"ref":"127.0.0.1:1/x:1"}"#;
    let begun = node.send(request(Method::POST, "/images/pull", &node.user_key, body)).await;
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    let begun: PullStarted = json(begun).await;
    let path = format!("/tasks/{}", begun.task_id);
    let task = loop {
        let task = node.send(request(Method::GET, &path, &node.user_key, "")).await;
        let task: Task = json(task).await;
        if task.status != TaskStatus::Running {
            break task;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((task.status, task.kind.as_str()), (TaskStatus::Failed, "image_pull"));
    assert_eq!(task.error.unwrap().code, ErrorCode::RegistryForbidden);
    let other = node.refused(Method::GET, &path, &node.admin_key, "").await;
    assert_eq!(other.code, ErrorCode::TaskNotFound);

    let mut watched = request(Method::POST, "/images/pull", &node.user_key, body);
    watched.headers_mut().insert(header::ACCEPT, headers::NDJSON.parse().unwrap());
    let bytes = node.send(watched).await.into_body().collect().await.unwrap().to_bytes();
    let lines: Vec<serde_json::Value> = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines[0]["type"], "task");
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["code"]), (&"error".into(), &"registry_forbidden".into()));
}

#[tokio::test]
async fn an_archive_that_is_none_leaves_nothing() {
    let node = Node::new().await;
    let import = request(Method::POST, "/images/import?name=a", &node.user_key, "no archive");
    let refused: ErrorBody = json(node.send(import).await).await;
    assert_eq!(refused.code, ErrorCode::ImageInvalid);
    let images: Vec<Image> =
        json(node.send(request(Method::GET, "/images", &node.user_key, "")).await).await;
    assert!(images.is_empty());
    let incoming = std::fs::read_dir(node._dir.path().join("incoming")).unwrap();
    assert_eq!(incoming.count(), 0);
}
