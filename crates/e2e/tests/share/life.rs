//! How links begin and end, and what they wake.

use api::{CreateSandbox, IdleSetting, ShareResume, Status, Thermal};
use e2e::{Terminal, create_request, until};

use super::*;

#[tokio::test]
async fn whoever_looks_is_put_out_when_a_link_ends() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let [one, other] =
        [share(&mut guest, &Share::default()).await, share(&mut guest, &Share::default()).await];
    let (mut first, _) = Visitor::arrive(&node, &one).await;
    let (mut second, _) = Visitor::arrive(&node, &other).await;
    guest.client.unshare(&guest.id, Some(&one.id)).await.unwrap();
    assert!(is_refusal(first.says().await));
    second.types("echo st''ill\n").await;
    second.until("still\r\n").await;
    let mut again = Visitor::with(&node, &one.id, one.token.as_ref().unwrap(), None).await;
    assert!(is_refusal(again.says().await));
    guest.client.unshare(&guest.id, None).await.unwrap();
    assert!(is_refusal(second.says().await));
    // Time is told by the daemon's clock, and whoever is there is not asked.
    let short = share(&mut guest, &Share { ttl_sec: Some(2), ..Share::default() }).await;
    let mut last = Visitor::with(&node, &short.id, short.token.as_ref().unwrap(), None).await;
    let end = loop {
        match last.says().await {
            Some(ServerMessage::Connected(_) | ServerMessage::Session { .. }) => {}
            end => break end,
        }
    };
    assert!(is_refusal(end));
    assert!(guest.client.shares(&guest.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn whoever_comes_wakes_what_sleeps_and_not_what_its_owner_stopped() {
    let node = start();
    let soon = Some(IdleSetting::After(1));
    let request =
        CreateSandbox { idle_warm_sec: soon, idle_cold_sec: soon, ..create_request("dev") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    let link = share(&mut guest, &Share::default()).await;
    let (mut visitor, _) = Visitor::arrive(&node, &link).await;
    visitor.types("x=kept\n").await;
    visitor.until("x=kept").await;
    drop(visitor);
    until("it is on disk", async || {
        (guest.view().await.thermal == Some(Thermal::Cold)).then_some(())
    })
    .await;
    let (mut visitor, _) = Visitor::arrive(&node, &link).await;
    visitor.types("echo $x''-\n").await;
    visitor.until("kept-\r\n").await;
    guest.stop().await;
    let stopped = |said| matches!(said, Some(ServerMessage::Error(error)) if error.code == ErrorCode::StoppedByOwner);
    assert!(stopped(visitor.says().await));
    let mut late = Visitor::with(&node, &link.id, link.token.as_ref().unwrap(), None).await;
    assert!(stopped(late.says().await));
    assert_eq!(guest.view().await.status, Status::Stopped);
    guest.start(None).await.unwrap();
    let (mut visitor, _) = Visitor::arrive(&node, &link).await;
    guest.client.destroy(&guest.id).await.unwrap();
    assert!(matches!(visitor.says().await, Some(ServerMessage::Error(_)) | None));
    let mut late = Visitor::with(&node, &link.id, link.token.as_ref().unwrap(), None).await;
    assert!(is_refusal(late.says().await));
}

#[tokio::test]
async fn a_link_outlives_the_daemon_and_a_visitor_goes_on_where_it_was() {
    let mut node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let link = share(&mut guest, &Share::default()).await;
    let (mut visitor, place) = Visitor::arrive(&node, &link).await;
    visitor.types("echo fi''rst\n").await;
    visitor.until("first\r\n").await;
    node.restart();
    // Everything up to the end, which is where it goes on.
    assert_eq!(visitor.says().await, None);
    let cursor = place.cursor + visitor.count;
    let resume = Some(ShareResume { created_at: place.created_at, cursor });
    let (mut back, now) = Visitor::arrive_at(&node, &link, resume).await;
    assert_eq!((now.created_at, now.cursor), (place.created_at, cursor));
    back.types("echo sec''ond\n").await;
    back.until("second\r\n").await;
    assert!(!back.text().contains("first"), "{}", back.text());
    let (mut anew, from) = Visitor::arrive(&node, &link).await;
    anew.until("second\r\n").await;
    assert!(from.cursor == 0 && anew.text().contains("first"));
}

#[tokio::test]
async fn a_link_of_its_own_has_a_terminal_of_its_own_that_its_owner_may_join() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let link = share(&mut guest, &Share::default()).await;
    let (mut visitor, _) = Visitor::arrive(&node, &link).await;
    visitor.types("echo vis''itor\n").await;
    visitor.until("visitor\r\n").await;
    let fresh = Terminal::open(&guest, "rows=24&cols=80").await;
    assert!(fresh.created, "nobody is put into a visitor's terminal unasked");
    let mut joined = Terminal::open(&guest, &format!("session={}", link.session)).await;
    joined.until("visitor\r\n").await;
    joined.type_in("echo ow''ner\n").await;
    visitor.until("owner\r\n").await;
    visitor.types("echo bo''th\n").await;
    joined.until("both\r\n").await;
}
