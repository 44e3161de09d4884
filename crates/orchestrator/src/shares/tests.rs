use base::{clock, ids::UserId};
use tempfile::TempDir;
use tokio::time::timeout;

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
    let made = node.store().create_user("u", false, UserLimits::default()).await;
    let owner = made.unwrap().0.id;
    registered(&node, &owner, "box").await;
    let sandbox = node.find(&owner, "box").unwrap();
    (dir, node, sandbox)
}

fn kind<T: std::fmt::Debug>(result: crate::Result<T>) -> Kind {
    result.unwrap_err().kind
}

#[tokio::test]
async fn a_share_opens_with_its_token_alone_and_survives_the_daemon() {
    let (dir, node, sandbox) = node().await;
    let made = node.share(&sandbox, ShareRequest::default()).await.unwrap();
    assert!(made.token.len() == 64 && !made.share.read_only);
    let lasts = made.share.expires_at - made.share.created_at;
    assert_eq!(lasts.unsigned_abs(), USUAL_SECONDS);
    let other = node.share(&sandbox, ShareRequest::default()).await.unwrap();
    let id = made.share.id.as_str();
    let (share, of) = node.open_share(id, &made.token).unwrap();
    assert_eq!((&share, of.view().id), (&made.share, sandbox.view().id));
    for token in ["", "0", &other.token, &made.token[1..], &made.share.token_sha256] {
        assert!(node.open_share(id, token).is_none());
    }
    for id in ["", "shr_000000000000", other.share.id.as_str(), "../x"] {
        assert!(node.open_share(id, &made.token).is_none());
    }
    assert_eq!(node.shares(&sandbox).len(), 2);
    let path = crate::layout::Layout::new(dir.path().to_owned()).store();
    let again = Store::open(&path).unwrap();
    assert_eq!(again.share(id), Some(made.share));
    let kept: Vec<u8> = ["", "-wal"]
        .iter()
        .flat_map(|end| std::fs::read(format!("{}{end}", path.display())).unwrap_or_default())
        .collect();
    let has = |token: &str| kept.windows(64).any(|part| part == token.as_bytes());
    assert!(!has(&made.token) && has(&share.token_sha256), "only its digest is in the file");
}

#[tokio::test]
async fn one_or_all_are_revoked_and_whoever_looks_is_told() {
    let (_dir, node, sandbox) = node().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(node.share(&sandbox, ShareRequest::default()).await.unwrap());
    }
    let over = |at: usize| {
        let (node, share) = (node.clone(), made[at].share.clone());
        tokio::spawn(async move { node.share_over(&share).await })
    };
    let (first, second) = (over(0), over(1));
    let id = made[0].share.id.as_str();
    assert_eq!(node.unshare(&sandbox, Some(id)).await.unwrap(), 1);
    assert_eq!(first.await.unwrap(), Over::Revoked);
    assert!(node.open_share(id, &made[0].token).is_none());
    assert!(node.open_share(made[1].share.id.as_str(), &made[1].token).is_some());
    for unknown in [id, "shr_", "pub_000000000000"] {
        assert_eq!(kind(node.unshare(&sandbox, Some(unknown)).await), Kind::ShareNotFound);
    }
    assert!(!second.is_finished());
    assert_eq!(node.unshare(&sandbox, None).await.unwrap(), 2);
    assert_eq!(second.await.unwrap(), Over::Revoked);
    assert_eq!(node.unshare(&sandbox, None).await.unwrap(), 0);
}

#[tokio::test]
async fn shares_end_with_their_time_and_with_their_sandbox() {
    let (_dir, node, sandbox) = node().await;
    let soon = ShareRequest { seconds: Some(1), ..ShareRequest::default() };
    let made = node.share(&sandbox, soon).await.unwrap();
    let id = made.share.id.as_str();
    let waits = timeout(std::time::Duration::from_secs(30), node.share_over(&made.share));
    assert_eq!(waits.await.unwrap(), Over::Expired);
    assert!(clock::unix_seconds() >= made.share.expires_at);
    assert!(node.open_share(id, &made.token).is_none());
    assert!(node.shares(&sandbox).is_empty());
    let lasting = node.share(&sandbox, ShareRequest::default()).await.unwrap();
    assert!(node.store().share(id).is_none(), "what has expired is forgotten");
    node.store().delete_sandbox(&sandbox.view().id).await.unwrap();
    assert!(node.open_share(lasting.share.id.as_str(), &lasting.token).is_none());
    assert_eq!(node.share_over(&lasting.share).await, Over::Revoked);
    let late = node.share(&sandbox, ShareRequest::default()).await;
    assert_eq!(kind(late), Kind::SandboxNotFound);
}

#[tokio::test]
async fn how_many_and_how_long_is_limited() {
    let (_dir, node, sandbox) = node().await;
    for seconds in [0, MOST_SECONDS + 1, u64::MAX] {
        let wanted = ShareRequest { seconds: Some(seconds), ..ShareRequest::default() };
        assert_eq!(kind(node.share(&sandbox, wanted).await), Kind::InvalidRequest);
    }
    for _ in 0..MOST_SHARES {
        let longest = ShareRequest { seconds: Some(MOST_SECONDS), ..ShareRequest::default() };
        node.share(&sandbox, longest).await.unwrap();
    }
    let more = node.share(&sandbox, ShareRequest::default()).await;
    assert_eq!(kind(more), Kind::QuotaShares);
}

#[test]
fn a_share_asks_for_its_own_session_or_for_the_one_that_it_shows() {
    let share = Share {
        id: ShareId::random(),
        sandbox: SandboxId::random(),
        owner: UserId::random(),
        token_sha256: String::new(),
        read_only: false,
        session: None,
        created_at: 0,
        expires_at: 1,
    };
    let own = share.join(None, None);
    assert!(own.session == share.id.as_str() && own.new.is_some_and(|new| new.tty) && own.input);
    let session = SharedSession { id: "s1".to_owned(), created_at: 5 };
    let of = Share { session: Some(session), read_only: true, ..share };
    let join = of.join(None, None);
    assert!(join.session == "s1" && join.new.is_none() && !join.input);
    let shown = |created_at| {
        let info = SessionInfo {
            id: "s1".to_owned(),
            argv: Vec::new(),
            tty: true,
            pid: 1,
            exited: None,
            attached: false,
            joined: 0,
            created_at,
            restarts: 0,
        };
        of.shows(&info)
    };
    assert!(shown(5) && !shown(6));
}
