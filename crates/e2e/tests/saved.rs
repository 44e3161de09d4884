//! Images of sandboxes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{CreateSandbox, ErrorCode, Prune, client::ClientError};
use e2e::{Guest, Node, Options, create_request};

fn of(image: &str, name: &str) -> CreateSandbox {
    CreateSandbox { image: Some(image.to_owned()), ..create_request(name) }
}

async fn made_of(node: &Node, image: &str, name: &str) -> Guest {
    let mut client = node.admin();
    let made = client.create(&of(image, name), drop).await.unwrap();
    Guest { client, id: made.sandbox.id }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sandbox_has_on_its_disk_is_in_its_image_and_nothing_else() {
    let node = Node::with(&Options::default());
    let mut box_ = Guest::create(&node, "box").await;
    let begin = "cd /workspace; echo one >kept; ln kept same; chmod 4755 kept; mkdir -p d/e; \
                 echo gone >/dev/shm/gone; (while :; do sleep 1; done) >/dev/null 2>&1 &";
    box_.sh(begin).await;
    // In the image, and gone from the sandbox.
    box_.root("test -e /bin/uname && rm /bin/uname").await;
    let saved = node.admin().save_image("box", "mine").await.unwrap();
    assert_eq!((saved.name.as_str(), saved.source.as_str()), ("mine", "saved:box"));
    // The sandbox goes on, and what it does is its own.
    box_.sh("echo two >>/workspace/kept; test -e /dev/shm/gone").await;

    let mut first = made_of(&node, "mine", "first").await;
    let look = "cat /workspace/kept; stat -c '%a %h' /workspace/kept; ls -d /workspace/d/e; ls /bin/uname /dev/shm/gone 2>/dev/null; hostname";
    assert_eq!(first.sh(look).await, "one\n4755 2\n/workspace/d/e\nfirst");
    assert_eq!(box_.sh("cat /workspace/kept").await, "one\ntwo");
    // The second is made of what the first has recorded.
    let mut second = made_of(&node, "mine", "second").await;
    assert_eq!(second.sh("cat /workspace/kept; hostname").await, "one\nsecond");
    first.sh("echo first >/workspace/kept").await;
    assert_eq!(second.sh("cat /workspace/kept").await, "one");
    assert_ne!(first.sh("cat /etc/machine-id").await, second.sh("cat /etc/machine-id").await);

    // They sleep, wake, boot and are copied as any other.
    second.sh("echo second >/workspace/own; sync").await;
    second.client.stop("second", drop).await.unwrap();
    assert_eq!(second.sh("cat /workspace/kept /workspace/own").await, "one\nsecond");
    let from_disk = api::StartSandbox { from: Some(api::StartFrom::Disk) };
    second.client.stop("second", drop).await.unwrap();
    second.client.start("second", &from_disk, drop).await.unwrap();
    assert_eq!(second.sh("cat /workspace/kept /workspace/own").await, "one\nsecond");

    // An image of what was made of an image.
    node.admin().save_image("second", "grandchild").await.unwrap();
    node.admin().destroy("second").await.unwrap();
    let mut third = made_of(&node, "grandchild", "third").await;
    assert_eq!(third.sh("cat /workspace/kept /workspace/own").await, "one\nsecond");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_that_sleeps_or_failed_the_disk_is_saved_too() {
    let mut node = Node::with(&Options::default());
    let mut box_ = Guest::create(&node, "box").await;
    // Not on the disk yet when it is stopped.
    box_.sh("echo asleep >/workspace/state").await;
    box_.client.stop("box", drop).await.unwrap();
    node.admin().save_image("box", "asleep").await.unwrap();
    let status = node.admin().sandbox("box").await.unwrap().status;
    assert_eq!(status, api::Status::Stopped, "whoever stopped it wants it to be");
    assert_eq!(made_of(&node, "asleep", "a").await.sh("cat /workspace/state").await, "asleep");

    box_.sh("echo failed >/workspace/state; sync").await;
    let monitors = node.monitors();
    let (pid, _) = monitors.iter().find(|(_, id)| *id == box_.id).unwrap();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(*pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    e2e::until("it has failed", async || {
        let status = node.admin().sandbox("box").await.unwrap().status;
        (status == api::Status::Failed).then_some(())
    })
    .await;
    node.admin().save_image("box", "failed").await.unwrap();
    assert_eq!(made_of(&node, "failed", "f").await.sh("cat /workspace/state").await, "failed");
    node.restart();
    assert_eq!(made_of(&node, "failed", "again").await.sh("cat /workspace/state").await, "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_lives_without_the_sandbox_and_goes_when_nobody_needs_it() {
    let node = Node::with(&Options { recorded_templates: false, ..Options::default() });
    let mut admin = node.admin();
    let mut box_ = Guest::create(&node, "box").await;
    box_.sh("echo one >/workspace/kept").await;
    admin.save_image("box", "mine").await.unwrap();
    admin.destroy("box").await.unwrap();
    let all = Prune { all: true, dry_run: false };
    let kinds = |pruned: api::Pruned| -> Vec<String> {
        pruned.removed.into_iter().map(|one| one.kind).collect()
    };
    assert_eq!(kinds(admin.prune(&all).await.unwrap()), ["templates"]);
    let mut user = made_of(&node, "mine", "user").await;
    assert_eq!(user.sh("cat /workspace/kept").await, "one");

    admin.image_delete("mine").await.unwrap();
    assert_eq!(kinds(admin.prune(&all).await.unwrap()), Vec::<String>::new(), "one is made of it");
    assert_eq!(user.sh("cat /workspace/kept").await, "one");
    user.client.stop("user", drop).await.unwrap();
    assert_eq!(user.sh("cat /workspace/kept").await, "one");
    admin.destroy("user").await.unwrap();
    assert_eq!(kinds(admin.prune(&all).await.unwrap()), ["templates", "images"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_saved_is_refused_and_leaves_nothing() {
    let node = Node::with(&Options { faults: true, ..Options::default() });
    let mut admin = node.admin();
    let mut box_ = Guest::create(&node, "box").await;
    admin.save_image("box", "mine").await.unwrap();
    let code = |refused: Result<api::Image, ClientError>| refused.unwrap_err().api_code().cloned();
    assert_eq!(code(admin.save_image("box", "mine").await), Some(ErrorCode::ImageExists));
    assert_eq!(code(admin.save_image("box", "../x").await), Some(ErrorCode::InvalidName));
    assert_eq!(code(admin.save_image("none", "x").await), Some(ErrorCode::SandboxNotFound));
    let content = || fs_err::read_dir(node.data().join("images/content")).unwrap().count();
    let before = content();
    for place in ["save.copied", "image.link", "image.saved", "copy.linked", "copy.prepared"] {
        node.faults().arm(&format!("{place}=enospc"));
        assert_eq!(code(admin.save_image("box", "full").await), Some(ErrorCode::HostDiskFull));
        assert!(node.faults().happened(), "{place} was not passed");
        node.faults().disarm();
        assert_eq!(content(), before, "{place}");
        box_.sh("true").await;
    }
    assert_eq!(admin.images().await.unwrap().iter().filter(|i| i.name == "full").count(), 0);
    let small = CreateSandbox { disk_size_mb: Some(64), ..of("mine", "small") };
    let refused = admin.create(&small, drop).await.unwrap_err();
    assert_eq!(refused.api_code(), Some(&ErrorCode::DiskInvalid), "{refused}");
    let large = CreateSandbox { disk_size_mb: Some(4096), ..of("mine", "large") };
    let made = admin.create(&large, drop).await.unwrap();
    let mut large = Guest { client: node.admin(), id: made.sandbox.id };
    let size: u64 = large.sh("df -m / | tail -1 | awk '{print $2}'").await.trim().parse().unwrap();
    assert!(size > 3500, "the disk has {size} MB");
}
