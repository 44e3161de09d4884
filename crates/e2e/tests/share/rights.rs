//! Who comes in, who does not, and who may say so.

use api::CreateUser;
use e2e::{Terminal, create_request, raw, refused};

use super::*;

#[tokio::test]
async fn a_link_opens_with_its_token_and_with_nothing_else() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let link = share(&mut guest, &Share::default()).await;
    let other = share(&mut guest, &Share::default()).await;
    let token = link.token.as_deref().unwrap();
    let expected = format!("http://{}/_shell/{}#{token}", node.public(), link.id);
    assert_eq!(link.url.as_deref(), Some(expected.as_str()));
    let (mut visitor, place) = Visitor::arrive(&node, &link).await;
    assert_eq!((place.rows, place.cols, place.cursor), (24, 80, 0));
    visitor.types("echo $((6*7))ok; stty size\n").await;
    visitor.until("42ok\r\n24 80\r\n").await;
    let key = fs_err::read_to_string(node.data().join("admin.key")).unwrap();
    for (id, wrong) in [
        (link.id.as_str(), "0".repeat(64)),
        (link.id.as_str(), String::new()),
        (link.id.as_str(), other.token.clone().unwrap()),
        (link.id.as_str(), key.trim().to_owned()),
        ("shr_000000000000", token.to_owned()),
        (guest.id.as_str(), token.to_owned()),
    ] {
        let mut stranger = Visitor::with(&node, id, &wrong, None).await;
        assert!(is_refusal(stranger.says().await), "{id} {wrong}");
        assert_eq!(stranger.says().await, None);
    }
    // One page for all, whatever there is.
    let mut pages = Vec::new();
    for id in [link.id.as_str(), "shr_000000000000", "x"] {
        let page = raw::tcp(node.public(), "GET", &format!("/_shell/{id}"), &[]).await;
        assert_eq!(page.status, 200);
        pages.push(page.body.len());
    }
    assert!(pages.iter().all(|length| *length == pages[0]));
    visitor.types("exit 3\n").await;
    assert_eq!(visitor.says().await, Some(ServerMessage::Exit { exit_code: 3 }));
    let said = node.log().join("\n");
    assert!(!said.contains(token), "the token is in no log");
}

#[tokio::test]
async fn whoever_only_watches_can_do_nothing() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut owner = Terminal::open(&guest, "new=true&rows=30&cols=100").await;
    owner.type_in("echo be''gin\n").await;
    owner.until("begin\r\n").await;
    let link = share(&mut guest, &Share { read_only: true, ..Share::default() }).await;
    assert_eq!(link.session, owner.session);
    let (mut watcher, place) = Visitor::arrive(&node, &link).await;
    assert_eq!((place.rows, place.cols), (30, 100));
    watcher.until("begin\r\n").await;
    watcher.types("echo str''ay\n").await;
    watcher.resizes(5, 5).await;
    owner.type_in("stty size; echo o''ne\n").await;
    let seen = owner.until("one\r\n").await;
    assert!(seen.contains("30 100") && !seen.contains("stray"), "{seen}");
    watcher.until("one\r\n").await;
    let viewers = guest.client.shares(&guest.id).await.unwrap();
    assert_eq!(
        (viewers[0].viewers, viewers[0].url.is_some(), viewers[0].token.is_none()),
        (1, true, true)
    );
    owner.say(&api::ClientMessage::Resize { rows: 40, cols: 120 }).await;
    assert_eq!(watcher.says().await, Some(ServerMessage::Resized { rows: 40, cols: 120 }));
    // What the owner leaves, a watcher still does not get.
    owner.close().await;
    watcher.types("echo str''ay\n").await;
    let link = share(&mut guest, &Share { session: Some(link.session), ..Share::default() }).await;
    let (mut typist, _) = Visitor::arrive(&node, &link).await;
    typist.types("echo t''wo\n").await;
    watcher.until("two\r\n").await;
    assert!(!watcher.text().contains("stray"), "{}", watcher.text());
}

#[tokio::test]
async fn only_its_owner_shares_a_sandbox() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let link = share(&mut guest, &Share::default()).await;
    let key = node.user(CreateUser { name: "bob".to_owned(), ..CreateUser::default() }).await;
    let mut theirs = node.client(&key);
    for outcome in [
        theirs.share(&guest.id, &Share::default()).await.map(drop),
        theirs.shares(&guest.id).await.map(drop),
        theirs.unshare(&guest.id, None).await,
        theirs.unshare(&guest.id, Some(&link.id)).await,
    ] {
        assert_eq!(refused(outcome).code, ErrorCode::SandboxNotFound);
    }
    assert!(theirs.all_shares().await.unwrap().is_empty());
    let mut their_box = Guest::create_by(node.client(&key), create_request("dev")).await;
    let through_own = their_box.client.unshare(&their_box.id, Some(&link.id)).await;
    assert_eq!(refused(through_own).code, ErrorCode::ShareNotFound);
    assert_eq!(guest.client.all_shares().await.unwrap().len(), 1);
    for (request, code) in [
        (Share { ttl_sec: Some(0), ..Share::default() }, ErrorCode::InvalidRequest),
        (Share { ttl_sec: Some(700_000), ..Share::default() }, ErrorCode::InvalidRequest),
        (Share { session: Some("s9".into()), ..Share::default() }, ErrorCode::SessionNotFound),
    ] {
        assert_eq!(refused(guest.client.share(&guest.id, &request).await).code, code);
    }
}

#[tokio::test]
async fn people_share_on_the_command_line() {
    let node = Node::start();
    let _guest = Guest::create(&node, "dev").await;
    let said = |args: &[&str]| {
        let output = node.cli(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    // Without a public listener it is the API's own that serves it.
    let (url, note) = said(&["share", "dev", "--ttl", "30m"]);
    assert!(url.starts_with(&format!("http://{}/_shell/shr_", node.tcp())), "{url}");
    let (_, token) = url.split_once('#').unwrap();
    assert!(token.len() == 64 && note.contains("--revoke shr_"), "{note}");
    let path = url[..url.find('#').unwrap()].split_once(&node.tcp().to_string()).unwrap().1;
    assert_eq!(raw::tcp(node.tcp(), "GET", path, &[]).await.status, 200);
    let (json, _) = said(&["share", "dev", "--read-only", "--json"]);
    let link: ShareLink = serde_json::from_str(&json).unwrap();
    assert!(link.read_only && link.session == link.id && link.url.is_some());
    let (table, _) = said(&["shares"]);
    assert!(table.lines().count() == 3 && !table.contains(token), "{table}");
    said(&["share", "dev", "--revoke", &link.id]);
    let (json, _) = said(&["shares", "dev", "--json"]);
    assert_eq!(serde_json::from_str::<Vec<ShareLink>>(&json).unwrap().len(), 1);
    said(&["share", "dev", "--revoke"]);
    let unknown = node.cli(&["share", "dev", "--revoke", &link.id, "--json"]);
    let error: api::ErrorBody = serde_json::from_slice(&unknown.stderr).unwrap();
    assert!(!unknown.status.success() && error.code == ErrorCode::ShareNotFound);
}
