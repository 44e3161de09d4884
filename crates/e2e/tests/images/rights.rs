//! Whose images are whose.

use std::os::unix::fs::PermissionsExt as _;

use api::{CreateUser, ErrorCode, ImageScope, PullImage, ShareImage, client::Client};
use e2e::{Node, Options, refused, registry::Registry};

use super::{node, pull, pull_request, small};

async fn user(node: &Node, name: &str) -> Client {
    let request = CreateUser { name: name.to_owned(), ..CreateUser::default() };
    node.client(&node.user(request).await)
}

fn with(name: &str) -> ShareImage {
    ShareImage { users: vec![name.to_owned()] }
}

#[tokio::test]
async fn an_image_is_its_owner_s_and_of_those_he_shares_it_with() {
    let node = node();
    let registry = Registry::start();
    registry.push(&small("one"), "x:1");
    registry.push(&small("two"), "x:2");
    let (mut admin, mut ann, mut bob) =
        (node.admin(), user(&node, "ann").await, user(&node, "bob").await);
    let own = PullImage { name: Some("web".into()), ..pull_request(&registry.reference("x:1")) };
    let pulled = pull(&mut admin, &own).await.unwrap();
    for directory in ["images/layers".to_owned(), format!("images/content/{}", pulled.digest)] {
        let meta = fs_err::metadata(node.data().join(directory)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(refused(ann.image("web").await).code, ErrorCode::ImageNotFound);
    let now = admin.image_share("web", &with("ann")).await.unwrap();
    assert_eq!(now.shared_with, ["ann"]);
    let seen = ann.image("web").await.unwrap();
    assert_eq!(
        (&seen.image.scope, seen.image.owner.as_deref()),
        (&ImageScope::Shared, Some("admin"))
    );
    assert!(seen.shared_with.is_empty());
    assert_eq!(refused(bob.image("web").await).code, ErrorCode::ImageNotFound);
    for refusal in [
        refused(ann.image_delete("web").await).code,
        refused(ann.image_share("web", &with("bob")).await).code,
        refused(ann.image_delete("busybox").await).code,
        refused(admin.image_share("busybox", &with("bob")).await).code,
    ] {
        assert_eq!(refusal, ErrorCode::PermissionDenied);
    }
    assert_eq!(refused(admin.image_share("web", &with("eve")).await).code, ErrorCode::UserNotFound);

    // A user may have one of the same name, which is then what he means.
    let archive = exported(&node, "web").await;
    ann.image_import("web", None, std::io::Cursor::new(archive.clone())).await.unwrap();
    assert_eq!(ann.image("web").await.unwrap().image.scope, ImageScope::Own);
    let twice = ann.image_import("web", None, std::io::Cursor::new(archive)).await;
    assert_eq!(refused(twice).code, ErrorCode::ImageExists);
    ann.image_delete("web").await.unwrap();
    assert_eq!(ann.image("web").await.unwrap().image.scope, ImageScope::Shared);
    assert!(admin.image_unshare("web", &["ann".into()]).await.unwrap().shared_with.is_empty());
    assert_eq!(refused(ann.image("web").await).code, ErrorCode::ImageNotFound);

    // What all may use is the admins'.
    let reference = registry.reference("x:2");
    let for_all = PullImage { name: Some("all".into()), global: true, ..pull_request(&reference) };
    assert_eq!(refused(pull(&mut ann, &for_all).await).code, ErrorCode::PermissionDenied);
    pull(&mut admin, &for_all).await.unwrap();
    assert_eq!(bob.image("all").await.unwrap().image.scope, ImageScope::Global);
    let other = PullImage { reference: registry.reference("x:1"), ..for_all };
    assert_eq!(refused(pull(&mut admin, &other).await).code, ErrorCode::ImageExists);
    admin.image_delete("all").await.unwrap();
    // A user that owns images stays.
    assert_eq!(refused(bob.image("all").await).code, ErrorCode::ImageNotFound);
}

async fn exported(node: &Node, name: &str) -> Vec<u8> {
    let mut client = node.admin();
    let mut content = client.image_export(name).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = content.chunk().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[tokio::test]
async fn users_reach_a_registry_of_this_host_only_if_the_operator_says_so() {
    let registry = Registry::start();
    registry.push(&small("one"), "x:1");
    let request = pull_request(&registry.reference("x:1"));
    let closed = node();
    let mut ann = user(&closed, "ann").await;
    let refusal = refused(pull(&mut ann, &request).await);
    assert_eq!(refusal.code, ErrorCode::RegistryForbidden, "{refusal:?}");
    drop(closed);
    let config = "[images]\nallow_registries = ['127.0.0.1']\nmax_import_bytes = 2000\n";
    let open = Node::with(&Options { config, ..Options::default() });
    let mut ann = user(&open, "ann").await;
    pull(&mut ann, &request).await.unwrap();
    let long = std::io::Cursor::new(vec![0; 2001]);
    assert_eq!(refused(ann.image_import("i", None, long).await).code, ErrorCode::BodyTooLarge);
    let none = std::io::Cursor::new(b"no archive".to_vec());
    assert_eq!(refused(ann.image_import("i", None, none).await).code, ErrorCode::ImageInvalid);
    assert_eq!(super::names(&open.data().join("incoming")), 0);
}

#[tokio::test]
async fn a_layer_of_somebody_else_s_is_fetched_again() {
    let config = "[images]\nallow_registries = ['127.0.0.1']\n";
    let node = Node::with(&Options { config, ..Options::default() });
    let registry = Registry::start();
    registry.push(&small("one"), "x:1");
    let request = pull_request(&registry.reference("x:1"));
    let (mut ann, mut bob) = (user(&node, "ann").await, user(&node, "bob").await);
    pull(&mut ann, &request).await.unwrap();
    // Whoever cannot show the content does not get it.
    registry.damage_largest_blob();
    assert_eq!(refused(pull(&mut bob, &request).await).code, ErrorCode::ImageInvalid);
    pull(&mut ann, &request).await.unwrap();
    ann.image_share("x-1", &with("bob")).await.unwrap();
    pull(&mut bob, &request).await.unwrap();
}
