//! Copies that are not made, of which nothing is left.

use api::{CreateUser, ErrorCode, ForkSandbox, ResumeSnapshot};
use e2e::{Guest, Living, Node, create_request, refused};

/// That there is nothing but this one sandbox.
async fn alone(node: &Node, guest: &mut Guest, when: &str) {
    let all = guest.client.sandboxes(&[]).await.unwrap();
    assert_eq!(all.iter().map(|s| &s.id).collect::<Vec<_>>(), [&guest.id], "{when}");
    node.monitor(&guest.id);
    assert_eq!((node.monitors().len(), !node.groups().is_empty()), (1, true), "{when}");
    for directory in ["sandboxes", "run"] {
        let entries = std::fs::read_dir(node.data().join(directory)).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [guest.id.as_str()], "{when}: {directory}");
    }
}

#[tokio::test]
async fn a_fork_that_cannot_be_whole_makes_nothing() {
    let node = Node::start();
    let limited =
        CreateUser { name: "ann".to_owned(), max_sandboxes: Some(3), ..CreateUser::default() };
    let key = node.user(limited).await;
    let mut guest = Guest::create_by(node.client(&key), create_request("dev")).await;
    let over = refused(guest.copies("copy", 3).await);
    assert_eq!(over.code, ErrorCode::QuotaSandboxes, "{over:?}");
    alone(&node, &mut guest, "more than the limit").await;
    for (name, count, code) in [
        ("dev", 1, ErrorCode::NameTaken),
        ("copy", 0, ErrorCode::InvalidRequest),
        ("copy", 101, ErrorCode::InvalidRequest),
        ("-copy", 1, ErrorCode::InvalidName),
        ("a/b", 2, ErrorCode::InvalidName),
    ] {
        let body = refused(guest.copies(name, count).await);
        assert_eq!(body.code, code, "{name} {count}: {body:?}");
        alone(&node, &mut guest, name).await;
    }
    let copies = guest.fork("copy", 2, || node.client(&key)).await;
    copies.into_iter().next().unwrap().destroy().await;
    // One of the two names is taken.
    let taken = refused(guest.copies("copy", 2).await);
    assert!([ErrorCode::NameTaken, ErrorCode::QuotaSandboxes].contains(&taken.code), "{taken:?}");
    let mut client = node.client(&key);
    let names = |all: Vec<api::Sandbox>| all.into_iter().map(|s| s.name).collect::<Vec<_>>();
    let mut there = names(client.sandboxes(&[]).await.unwrap());
    there.sort();
    assert_eq!(there, ["copy-2", "dev"]);
    let unnamed = guest.client.fork(&guest.id, &ForkSandbox::default()).await.unwrap();
    assert!(unnamed.len() == 1 && unnamed[0].name.starts_with("dev-"), "{unnamed:?}");
}

#[tokio::test]
async fn a_copy_that_cannot_become_somebody_else_is_never_handed_out() {
    let node = Node::start();
    node.expect_warning("code=agent_unreachable");
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    for (what, damage, repair) in [
        (
            "/etc/machine-id",
            "cat /etc/machine-id > /tmp/id; mount -o bind /tmp/id /etc/machine-id && \
             mount -o remount,bind,ro /etc/machine-id",
            "umount /etc/machine-id",
        ),
        (
            "/etc/hostname",
            "umount -l /etc/hostname; mv /etc/hostname /etc/was; mkdir /etc/hostname",
            "rmdir /etc/hostname; mv /etc/was /etc/hostname",
        ),
    ] {
        guest.root(damage).await;
        guest.checkpoint("base").await;
        for _ in 0..2 {
            let forked = refused(guest.copies("copy", 2).await);
            let wanted = ResumeSnapshot { name: Some("copy".to_owned()) };
            let resumed = refused(guest.client.resume_snapshot("base", &wanted).await);
            for body in [forked, resumed] {
                assert_eq!(body.code, ErrorCode::AgentUnreachable, "{body:?}");
                assert!(body.error.contains(what), "{body:?}");
            }
            alone(&node, &mut guest, what).await;
        }
        living.check(&mut guest, what).await;
        guest.client.delete_snapshot("base").await.unwrap();
        guest.root(repair).await;
        let mut copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
        assert_eq!(copy.sh("hostname; cat /etc/hostname").await, "copy\ncopy");
        copy.destroy().await;
    }
}
