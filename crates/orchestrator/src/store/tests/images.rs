//! Images of users.

use base::ids::{Name, UserId};

use super::{store, user};
use crate::{Kind, images::NewImage, model::User, store::Store};

fn image(owner: &User, name: &str, digit: char, reference: Option<&str>) -> NewImage {
    NewImage {
        owner: owner.id.clone(),
        name: name.parse().unwrap(),
        digest: digit.to_string().repeat(64),
        reference: reference.map(str::to_owned),
        source: "test".to_owned(),
        created_at: i64::from(u32::from(digit)),
    }
}

fn meant(store: &Store, user: &UserId, name: &str) -> Option<char> {
    let name: Name = name.parse().unwrap();
    store.image(user, &name).and_then(|image| image.digest.chars().next())
}

#[tokio::test]
async fn a_name_changes_its_meaning_only_for_the_reference_that_it_came_from() {
    let (dir, store) = store();
    let owner = user(&store, "u").await;
    let first = store.keep_image(image(&owner, "a", '1', Some("r/a:1"))).await.unwrap();
    let other = store.keep_image(image(&owner, "a", '2', Some("r/b:1"))).await;
    assert_eq!(other.unwrap_err().kind, Kind::ImageExists);
    let none = store.keep_image(image(&owner, "a", '2', None)).await;
    assert_eq!(none.unwrap_err().kind, Kind::ImageExists);
    let moved = store.keep_image(image(&owner, "a", '2', Some("r/a:1"))).await.unwrap();
    assert_eq!((&moved.id, moved.created_at), (&first.id, i64::from(u32::from('2'))));
    let mut again = image(&owner, "a", '2', Some("r/a:1"));
    again.created_at = 7;
    assert_eq!(store.keep_image(again).await.unwrap().created_at, moved.created_at);
    let import = store.keep_image(image(&owner, "i", '3', None)).await.unwrap();
    let twice = store.keep_image(image(&owner, "i", '3', None)).await;
    assert_eq!(twice.unwrap_err().kind, Kind::ImageExists);
    assert_eq!(store.image_from(&owner.id, "r/a:1").unwrap().id, first.id);
    drop(store);
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    assert_eq!(store.images_of(&owner.id), [moved, import]);
    assert_eq!(store.image_digests().len(), 2);
}

#[tokio::test]
async fn one_s_own_image_goes_before_one_that_is_shared() {
    let (_dir, store) = store();
    let (ann, bob) = (user(&store, "ann").await, user(&store, "bob").await);
    let shared = store.keep_image(image(&ann, "a", '1', Some("r/a:1"))).await.unwrap();
    assert_eq!(meant(&store, &bob.id, "a"), None);
    for _ in 0..2 {
        store.share_image(&shared.id, vec![bob.id.clone()], true).await.unwrap();
    }
    assert_eq!(meant(&store, &bob.id, "a"), Some('1'));
    assert!(store.image_from(&bob.id, "r/a:1").is_some());
    let own = store.keep_image(image(&bob, "a", '2', None)).await.unwrap();
    assert_eq!((meant(&store, &bob.id, "a"), meant(&store, &ann.id, "a")), (Some('2'), Some('1')));
    // A tag that moves stays shared.
    store.keep_image(image(&ann, "a", '3', Some("r/a:1"))).await.unwrap();
    store.delete_image(&own.id).await.unwrap();
    assert_eq!(meant(&store, &bob.id, "a"), Some('3'));
    store.share_image(&shared.id, vec![bob.id.clone()], false).await.unwrap();
    assert_eq!(meant(&store, &bob.id, "a"), None);
}

#[tokio::test]
async fn a_user_with_images_stays_and_what_was_shared_goes_with_a_user() {
    let (_dir, store) = store();
    let (ann, bob) = (user(&store, "ann").await, user(&store, "bob").await);
    let kept = store.keep_image(image(&ann, "a", '1', None)).await.unwrap();
    store.share_image(&kept.id, vec![bob.id.clone()], true).await.unwrap();
    assert_eq!(store.delete_user("ann").await.unwrap_err().kind, Kind::UserInUse);
    store.delete_user("bob").await.unwrap();
    assert!(store.own_image(&ann.id, &kept.name).unwrap().shared_with.is_empty());
    store.delete_image(&kept.id).await.unwrap();
    store.delete_user("ann").await.unwrap();
}
