use api::{ErrorBody, ServerMessage, Share as Wanted, ShareHello, ShareLink};
use axum::{body::Body, http::Request};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use orchestrator::testing::{Agent, FrameKind, Incoming};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::{
    testing::{PATIENCE, Served, failure, whole},
    websocket::Socket,
};

type Client = WebSocketStream<Socket>;

fn upgrade(path: &str) -> axum::http::request::Builder {
    Request::builder()
        .uri(path)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

async fn share(served: &Served, wanted: &Wanted) -> ShareLink {
    let body = Body::from(serde_json::to_vec(wanted).unwrap());
    let request = served.request("POST", "/sandboxes/box/shell-token").body(body).unwrap();
    let response = served.send(request).await;
    assert_eq!(response.status(), 200);
    serde_json::from_slice(&whole(response).await).unwrap()
}

async fn connect(served: &Served, id: &str) -> Client {
    let host = served.address.to_string();
    let request = upgrade(&format!("/_shell/{id}/ws"))
        .header("host", &host)
        .header("origin", format!("http://{host}"))
        .body(Body::empty())
        .unwrap();
    let response = served.send(request).await;
    assert_eq!(response.status(), 101);
    let socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    WebSocketStream::from_raw_socket(socket, Role::Client, None).await
}

async fn hears(client: &mut Client) -> Option<ServerMessage> {
    loop {
        match timeout(PATIENCE, client.next()).await.unwrap() {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

async fn says(served: &Served, id: &str, first: Message) -> ErrorBody {
    let mut client = connect(served, id).await;
    client.send(first).await.unwrap();
    match hears(&mut client).await {
        Some(ServerMessage::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn hello(token: &str) -> Message {
    let hello = ShareHello { token: token.to_owned(), rows: None, cols: None, resume: None };
    Message::text(serde_json::to_string(&hello).unwrap())
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_is_the_same_for_every_id() {
    let (served, _agent) = Served::new().await;
    let get = async |path: &str| {
        let host = served.address.to_string();
        let request = Request::builder().uri(path).header("host", host);
        served.send(request.body(Body::empty()).unwrap()).await
    };
    let page = get("/_shell/shr_000000000000").await;
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let nonce = nonce.to_owned();
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(header(name), value);
    }
    let html = String::from_utf8(whole(page).await).unwrap();
    // No inline script, no handler in an attribute, nothing with a host in its address.
    assert_eq!(
        html.matches("<script").count(),
        html.matches("<script type=\"module\" nonce=").count()
    );
    assert!(!html.contains("//") && !html.contains(" on") && !html.contains("style="), "{html}");
    let other = get("/_shell/anything").await;
    let again = String::from_utf8(whole(other).await).unwrap();
    let other = again.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(again.replace(other, &nonce), html);
    assert_ne!(other, nonce, "each page has its own");
    let mut loaded = 0;
    for part in html.split(['"']).filter(|part| part.starts_with("assets/")) {
        let asset = get(&format!("/_shell/{part}")).await;
        assert_eq!(asset.status(), 200, "{part}");
        assert!(asset.headers()["cache-control"].to_str().unwrap().contains("immutable"));
        assert_eq!(asset.headers()["x-content-type-options"], "nosniff");
        loaded += 1;
    }
    assert!(loaded >= 4);
    for wrong in ["/_shell/assets/0000000000000000/xterm.mjs", "/_shell/assets/x/../y", "/_shell/"]
    {
        assert_eq!(get(wrong).await.status(), 404, "{wrong}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_link_is_told_in_the_same_words() {
    let (served, _agent) = Served::new().await;
    let link = share(&served, &Wanted::default()).await;
    let token = link.token.as_deref().unwrap();
    let revoked = share(&served, &Wanted::default()).await;
    let path = format!("/sandboxes/box/shell-token/{}", revoked.id);
    let gone = served.request("DELETE", &path).body(Body::empty()).unwrap();
    assert_eq!(served.send(gone).await.status(), 204);
    let large = format!(r#"{{"type":"auth","token":"{token}","more":"{}"}}"#, " ".repeat(5000));
    let all = [
        (link.id.as_str(), hello(&"0".repeat(64))),
        (link.id.as_str(), hello(&served.key)),
        (link.id.as_str(), Message::text(token)),
        (link.id.as_str(), Message::text(large)),
        (link.id.as_str(), Message::binary(vec![0xff])),
        ("shr_000000000000", hello(token)),
        (revoked.id.as_str(), hello(revoked.token.as_deref().unwrap())),
    ];
    let mut told = Vec::new();
    for (id, first) in all {
        told.push(says(&served, id, first).await);
    }
    assert_eq!(told[0].code, ErrorCode::ShareNotFound);
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
}

#[tokio::test]
async fn whoever_is_wrong_too_often_has_to_wait() {
    let (served, _agent) = Served::new().await;
    let link = share(&served, &Wanted::default()).await;
    for _ in 0..WRONG.burst {
        let told = says(&served, &link.id, hello("x")).await;
        assert_eq!(told.code, ErrorCode::ShareNotFound);
    }
    let told = says(&served, &link.id, hello(link.token.as_deref().unwrap())).await;
    assert_eq!(told.code, ErrorCode::RateLimited);
}

#[tokio::test]
async fn pages_of_other_sites_are_not_connected() {
    let (served, _agent) = Served::new().await;
    let link = share(&served, &Wanted::default()).await;
    let path = format!("/_shell/{}/ws", link.id);
    let host = served.address.to_string();
    for origin in ["http://evil.example", "null", "https://127.0.0.1"] {
        let request = upgrade(&path).header("host", &host).header("origin", origin);
        let response = served.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(failure(response).await.code, ErrorCode::Forbidden, "{origin}");
    }
    let plain = Request::builder().uri(&path).header("host", &host).body(Body::empty()).unwrap();
    assert_eq!(failure(served.send(plain).await).await.code, ErrorCode::InvalidRequest);
}

/// The agent of a terminal that says back whatever is typed.
async fn echo(mut incoming: Incoming) {
    use guest::{Request, Response};
    use orchestrator::message as guest;
    while let Some(mut stream) = incoming.next().await {
        tokio::spawn(async move {
            let Ok(Some(Request::Join(join))) = stream.recv_json::<Request>().await else { return };
            let session = guest::SessionInfo {
                id: join.session,
                argv: Vec::new(),
                tty: true,
                pid: 1,
                exited: None,
                attached: false,
                joined: 1,
                created_at: 7,
                restarts: 0,
            };
            let size = Some(guest::WindowSize { rows: 2, cols: 3 });
            let (created, start, replay) = (join.new.is_some(), 5, 0);
            let joined = Response::Joined { session, created, start, replay, size };
            stream.send_json(&joined).await.unwrap();
            while let Ok(Some(frame)) = stream.recv().await {
                let _ = stream.send_data(FrameKind::Stdout, &frame.payload).await;
            }
        });
    }
}

#[tokio::test]
async fn a_visitor_types_unless_the_link_is_for_reading_and_leaves_when_it_ends() {
    let (served, agent) = Served::new().await;
    let Agent { incoming, .. } = agent;
    tokio::spawn(echo(incoming));
    let link = share(&served, &Wanted::default()).await;
    let mut client = connect(&served, &link.id).await;
    client.send(hello(link.token.as_deref().unwrap())).await.unwrap();
    let Some(ServerMessage::Connected(shown)) = hears(&mut client).await else { panic!() };
    assert_eq!((shown.sandbox.as_str(), shown.status.as_str()), ("box", "awake"));
    assert!(!shown.read_only && (3590..=3600).contains(&shown.expires_in_sec));
    let Some(ServerMessage::Session { session_id, created, place, .. }) = hears(&mut client).await
    else {
        panic!()
    };
    assert_eq!((session_id, created), (link.id.clone(), true));
    let place = place.unwrap();
    assert_eq!((place.created_at, place.cursor, place.rows, place.cols), (7, 5, 2, 3));
    client.send(Message::binary(&b"ls"[..])).await.unwrap();
    let echoed = timeout(PATIENCE, client.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(echoed.into_data(), &b"ls"[..]);
    let list = whole(served.get("/shell-token").await).await;
    let list: Vec<ShareLink> = serde_json::from_slice(&list).unwrap();
    assert_eq!((list.len(), list[0].viewers, &list[0].token), (1, 1, &None));
    let all = served.request("DELETE", "/sandboxes/box/shell-token").body(Body::empty()).unwrap();
    assert_eq!(served.send(all).await.status(), 204);
    match hears(&mut client).await {
        Some(ServerMessage::Error(error)) => assert_eq!(error.code, ErrorCode::ShareNotFound),
        other => panic!("{other:?}"),
    }
    let reading =
        share(&served, &Wanted { ttl_sec: Some(2), read_only: true, session: None }).await;
    let mut client = connect(&served, &reading.id).await;
    client.send(hello(reading.token.as_deref().unwrap())).await.unwrap();
    assert!(matches!(hears(&mut client).await, Some(ServerMessage::Connected(_))));
    assert!(matches!(hears(&mut client).await, Some(ServerMessage::Session { .. })));
    client.send(Message::binary(&b"ls"[..])).await.unwrap();
    // Nothing comes back but the end of its time.
    let end = timeout(PATIENCE, client.next()).await.unwrap().unwrap().unwrap();
    let end: ServerMessage = serde_json::from_str(end.to_text().unwrap()).unwrap();
    assert!(matches!(end, ServerMessage::Error(error) if error.error.contains("time")));
}
