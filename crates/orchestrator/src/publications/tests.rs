use base::ids::{SandboxId, UserId};
use tempfile::TempDir;

use super::*;
use crate::{
    Kind, Orchestrator, Sandbox,
    model::UserLimits,
    store::Store,
    testing::{registered, settings},
};

/// A node with a user who has a sandbox named `box`.
async fn node() -> (TempDir, Orchestrator, Sandbox) {
    let dir = tempfile::tempdir().unwrap();
    let node = Orchestrator::open(settings(dir.path())).await.unwrap();
    let sandbox = of_user(&node, "u", "box").await;
    (dir, node, sandbox)
}

async fn of_user(node: &Orchestrator, user: &str, name: &str) -> Sandbox {
    let made = node.store().create_user(user, false, UserLimits::default()).await;
    let owner = made.unwrap().0.id;
    registered(node, &owner, name).await;
    node.find(&owner, name).unwrap()
}

fn alias(port: u16, alias: &str) -> PublishRequest {
    let place = WantedPlace::Alias(Some(alias.to_owned()));
    PublishRequest { port, place, guard: WantedGuard::Open, allow: Vec::new() }
}

fn kind<T: std::fmt::Debug>(result: crate::Result<T>) -> Kind {
    result.unwrap_err().kind
}

#[tokio::test]
async fn publishing_again_is_the_same_and_publishing_otherwise_is_refused() {
    let (_dir, node, sandbox) = node().await;
    let made = node.publish(&sandbox, alias(80, "web")).await.unwrap();
    assert!(!made.existing && made.secret.is_none());
    let again = node.publish(&sandbox, alias(80, "web")).await.unwrap();
    assert_eq!((again.existing, &again.publication), (true, &made.publication));
    let any = PublishRequest { place: WantedPlace::Alias(None), ..alias(80, "web") };
    assert!(node.publish(&sandbox, any.clone()).await.unwrap().existing);
    let others = [
        alias(80, "other"),
        PublishRequest { guard: WantedGuard::Token, ..any.clone() },
        PublishRequest { allow: vec!["10.0.0.0/8".parse().unwrap()], ..any.clone() },
        PublishRequest { place: WantedPlace::HostPort(9), ..any },
    ];
    for other in others {
        assert_eq!(kind(node.publish(&sandbox, other).await), Kind::PublicationDiffers);
    }
    let (found, of) = node.by_alias("web").unwrap();
    assert_eq!((found, of.view().id), (made.publication, sandbox.view().id));
    node.unpublish(&sandbox, 80).await.unwrap();
    assert!(node.by_alias("web").is_none());
    assert_eq!(kind(node.unpublish(&sandbox, 80).await), Kind::PublicationNotFound);
}

#[tokio::test]
async fn an_alias_and_a_port_of_the_host_are_one_s_among_all_users() {
    let (_dir, node, sandbox) = node().await;
    let theirs = of_user(&node, "v", "box").await;
    node.publish(&sandbox, alias(80, "web")).await.unwrap();
    assert_eq!(kind(node.publish(&theirs, alias(80, "web")).await), Kind::AliasTaken);
    let tcp = |port| PublishRequest { place: WantedPlace::HostPort(port), ..alias(81, "") };
    node.publish(&sandbox, tcp(4000)).await.unwrap();
    assert_eq!(kind(node.publish(&theirs, tcp(4000)).await), Kind::HostPortTaken);
    let on_host: Vec<_> = node.store().publications_on_host_ports();
    assert_eq!(on_host.len(), 1);
    assert_eq!(on_host[0].place, Place::HostPort(4000));
}

#[tokio::test]
async fn it_survives_the_daemon_and_ends_with_the_sandbox() {
    let (dir, node, sandbox) = node().await;
    let mut changes = node.store().publication_changes();
    node.publish(&sandbox, alias(80, "web")).await.unwrap();
    let basic = WantedGuard::Basic { user: "me".into() };
    let allow = vec!["2001:db8::/32".parse().unwrap()];
    node.publish(&sandbox, PublishRequest { guard: basic, allow, ..alias(81, "two") })
        .await
        .unwrap();
    let id = sandbox.view().id;
    let before = node.store().publications_of(&id);
    // The file as another daemon finds it.
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    assert_eq!(store.publications_of(&id), before);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    node.store().delete_sandbox(&id).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(node.store().publication("web").is_none());
    assert!(node.store().publications_of(&id).is_empty());
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    assert!(store.publication("two").is_none());
    assert_eq!(kind(node.publish(&sandbox, alias(80, "web")).await), Kind::SandboxNotFound);
}

#[tokio::test]
async fn secrets_are_told_once_and_only_their_digests_are_kept() {
    let (dir, node, sandbox) = node().await;
    let token = PublishRequest { guard: WantedGuard::Token, ..alias(80, "web") };
    let made = node.publish(&sandbox, token.clone()).await.unwrap();
    let secret = made.secret.unwrap();
    assert!(secret.starts_with("bpt_"));
    assert!(made.publication.guard.takes_token(secret.as_bytes()));
    assert!(!made.publication.guard.takes_token(b"bpt_"));
    assert!(!made.publication.guard.takes_password(b"", secret.as_bytes()));
    assert_eq!(node.publish(&sandbox, token).await.unwrap().secret, None);
    let basic = WantedGuard::Basic { user: "me".into() };
    let basic = PublishRequest { guard: basic, ..alias(81, "two") };
    let made = node.publish(&sandbox, basic).await.unwrap();
    let password = made.secret.unwrap();
    let takes = |user: &str, password: &str| {
        made.publication.guard.takes_password(user.as_bytes(), password.as_bytes())
    };
    assert!(takes("me", &password));
    assert!(!takes("you", &password) && !takes("me", "") && !takes("me", "wrong"));
    let files = ["state.db", "state.db-wal"].map(|name| fs_err::read(dir.path().join(name)));
    for bytes in files.into_iter().flatten() {
        for secret in [&secret, &password] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        }
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (_dir, node, sandbox) = node().await;
    let basic = |user: &str| WantedGuard::Basic { user: user.to_owned() };
    let tcp = WantedPlace::HostPort(4000);
    for odd in [
        alias(0, "web"),
        PublishRequest { guard: basic(""), ..alias(80, "web") },
        PublishRequest { guard: basic("a:b"), ..alias(80, "web") },
        PublishRequest { place: WantedPlace::HostPort(0), ..alias(80, "") },
        PublishRequest { place: tcp, guard: WantedGuard::Token, ..alias(80, "") },
        PublishRequest { allow: vec!["::/0".parse().unwrap(); 65], ..alias(80, "web") },
    ] {
        assert_eq!(kind(node.publish(&sandbox, odd).await), Kind::InvalidRequest);
    }
    assert_eq!(kind(node.publish(&sandbox, alias(80, "www")).await), Kind::InvalidName);
    for port in 1..=MOST_PUBLICATIONS {
        let port = u16::try_from(port).unwrap();
        node.publish(&sandbox, alias(port, &format!("a{port}"))).await.unwrap();
    }
    assert_eq!(kind(node.publish(&sandbox, alias(999, "more")).await), Kind::QuotaPublications);
}

#[test]
fn addresses_are_let_in_by_range_and_mapped_ones_as_what_they_are() {
    let publication = |allow: &[&str]| Publication {
        id: PublicationId::random(),
        sandbox: SandboxId::random(),
        owner: UserId::random(),
        port: 80,
        place: Place::HostPort(1),
        guard: Guard::Open,
        allow: allow.iter().map(|range| range.parse().unwrap()).collect(),
        created_at: 0,
    };
    let allows =
        |ranges: &[&str], address: &str| publication(ranges).allows(address.parse().unwrap());
    assert!(allows(&[], "192.0.2.1") && allows(&["192.0.2.0/24"], "::ffff:192.0.2.1"));
    assert!(allows(&["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1"));
    assert!(!allows(&["192.0.2.0/24"], "192.0.3.1") && !allows(&["0.0.0.0/0"], "::1"));
}
