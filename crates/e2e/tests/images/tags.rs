//! What a tag means may change, and what is pulled may not come.

use api::{ErrorCode, PullEvent, TaskStatus};
use e2e::{
    Node, refused,
    registry::{Layer, Layout, Registry},
    until,
};

use super::{layers_of, names, node, noise, pull, pull_request, small};

#[tokio::test]
async fn a_moved_tag_is_followed_and_a_pull_that_fails_changes_nothing() {
    let node = node();
    // Once it is gone.
    node.expect_warning("code=image_unavailable");
    let mut registry = Registry::start();
    let request = pull_request(&registry.reference("x:1"));
    registry.push(&small("one"), "x:1");
    let mut admin = node.admin();
    let one = pull(&mut admin, &request).await.unwrap();
    assert_eq!((one.name.as_str(), layers_of(&node)), ("x-1", 2));
    assert_eq!(one.reference.as_deref(), Some(registry.reference("x:1").as_str()));
    assert_eq!(pull(&mut admin, &request).await.unwrap(), one);
    registry.push(&small("two"), "x:1");
    let two = pull(&mut admin, &request).await.unwrap();
    assert_ne!(one.digest, two.digest);
    assert_eq!(admin.image("x-1").await.unwrap().config.env["WORD"], "two");

    // Of a third only a part comes, and nothing of it stays.
    let layers = layers_of(&node);
    let third = registry.reference("y:1");
    let large = Layer::default().file("noise", 0o644, &noise(2_000_000));
    registry.push(&Layout::new(vec![large], &serde_json::json!({})), "y:1");
    registry.damage_largest_blob();
    let same_name = api::PullImage { name: Some("x-1".to_owned()), ..pull_request(&third) };
    assert_eq!(refused(pull(&mut admin, &same_name).await).code, ErrorCode::ImageExists);
    let damaged = refused(pull(&mut admin, &pull_request(&third)).await);
    assert_eq!(damaged.code, ErrorCode::ImageInvalid, "{damaged:?}");
    assert_eq!(refused(admin.image("y-1").await).code, ErrorCode::ImageNotFound);
    assert_eq!((layers_of(&node), names(&node.data().join("incoming"))), (layers, 0));

    let nothing = refused(pull(&mut admin, &pull_request(&registry.reference("z:1"))).await);
    assert_eq!(nothing.code, ErrorCode::ImageNotFound);
    registry.stop();
    let unreachable = refused(pull(&mut admin, &request).await);
    assert_eq!(unreachable.code, ErrorCode::ImageUnavailable);
    assert_eq!(admin.images().await.unwrap().iter().find(|i| i.name == "x-1"), Some(&two));
    prepared_ones_are_listed_without_a_daemon(node);
}

fn prepared_ones_are_listed_without_a_daemon(mut node: Node) {
    node.terminate();
    let listed = node.cli(&["image", "list"]);
    let shown = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.status.success() && shown.contains("busybox"), "{shown}");
    assert!(!shown.contains("x-1"), "{shown}");
}

#[tokio::test]
async fn a_pull_goes_on_by_itself_and_is_one_for_all_who_ask() {
    let node = node();
    let registry = Registry::start();
    registry.push(&small("one"), "x:1");
    let request = pull_request(&registry.reference("x:1"));
    let (mut first, mut second) = (node.admin(), node.admin());
    let mut tasks = Vec::new();
    for client in [&mut first, &mut second] {
        let mut events = client.image_pull(&request).await.unwrap();
        let Some(PullEvent::Task { task_id }) = events.next().await.unwrap() else { panic!() };
        tasks.push(task_id);
    }
    // Both have left by now.
    let done = until("the pull is done", async || {
        let task = node.admin().task(&tasks[1]).await.unwrap();
        (task.status != TaskStatus::Running).then_some(task)
    })
    .await;
    assert_eq!(done.status, TaskStatus::Completed, "{done:?}");
    assert_eq!(done.result.unwrap().name, "x-1");
    let first = node.admin().task(&tasks[0]).await.unwrap();
    assert_eq!(first.status, TaskStatus::Completed);
    assert_eq!(node.log().iter().filter(|line| line.contains("a pull failed")).count(), 0);
    // What has ended cannot be cancelled, and nobody else knows of it.
    node.admin().task_cancel(&tasks[0]).await.unwrap();
    assert_eq!(node.admin().task(&tasks[0]).await.unwrap().status, TaskStatus::Completed);
    let other = api::CreateUser { name: "other".into(), ..api::CreateUser::default() };
    let mut other = node.client(&node.user(other).await);
    assert_eq!(refused(other.task(&tasks[0]).await).code, ErrorCode::TaskNotFound);
}
