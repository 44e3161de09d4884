//! What goes on when a publication or the daemon ends.

use tokio::sync::{Notify, mpsc};

use super::*;

/// A server with a stream of events that goes on, a request that it never answers, and an upgrade;
/// it tells when it has been asked for the second.
async fn lasting() -> (u16, Arc<Notify>) {
    let (asked, asking) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = Arc::clone(&asked);
    let router = Router::new()
        .route("/events", any(async || events("text/event-stream; charset=utf-8")))
        .route("/stream", any(async || events("application/octet-stream")))
        .route(
            "/never",
            any(async move || {
                told.notify_one();
                asking.notified().await;
            }),
        );
    (server(router).await, asked)
}

/// An answer that begins and does not end.
fn events(media: &'static str) -> impl axum::response::IntoResponse {
    let (sender, receiver) = mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    sender.try_send(Ok("data: 1\n\n".into())).unwrap();
    let state = (sender, receiver);
    let body = futures_util::stream::unfold(state, async |(sender, mut receiver)| {
        receiver.recv().await.map(|event| (event, (sender, receiver)))
    });
    ([("content-type", media)], Body::from_stream(body))
}

/// The first event of a stream, and what follows.
async fn begun(site: &Site, path: &str) -> Incoming {
    let mut body = site.get("web", path, &[]).await.into_body();
    let first = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: 1\n\n");
    body
}

async fn unpublish(site: &Site, port: u16) {
    let gone = site.served.request("DELETE", &format!("/sandboxes/box/publish/{port}"));
    let gone = site.served.send(gone.body(Body::empty()).unwrap()).await;
    assert_eq!(gone.status(), 204);
}

#[tokio::test]
async fn what_goes_on_ends_with_the_publication() {
    let site = Arc::new(Site::new().await);
    let (port, asked) = lasting().await;
    site.web("web", port).await;
    let mut stream = begun(&site, "/stream").await;
    let waiting = tokio::spawn({
        let site = Arc::clone(&site);
        async move { site.get("web", "/never", &[]).await.status() }
    });
    timeout(PATIENCE, asked.notified()).await.unwrap();
    let sandbox = site.served.app.orchestrator.find(&owner(&site), "box").unwrap();
    unpublish(&site, port).await;
    // With another guard it is another one, also for those who are there.
    let alias = Some("web".to_owned());
    let auth = Some(api::PublishAuth::Token);
    site.publish(&Publish { port, alias, auth, ..Publish::default() }).await;
    let next = timeout(PATIENCE, stream.frame()).await.unwrap();
    assert!(matches!(next, Some(Err(_))), "it looks complete: {next:?}");
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), 404);
    assert_eq!(sandbox.activity().tunnels, 0);
}

#[tokio::test]
async fn a_connection_that_was_upgraded_ends_with_the_publication() {
    let site = Site::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let guest = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut seen).await.unwrap();
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\nhello";
        stream.write_all(answer).await.unwrap();
        let _ = stream.read_to_end(&mut seen).await;
    });
    site.web("web", port).await;
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let response = site.get("web", "/", &headers).await;
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut hello = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut hello)).await.unwrap().unwrap();
    unpublish(&site, port).await;
    let _ = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    timeout(PATIENCE, guest).await.unwrap().unwrap();
}

#[tokio::test]
async fn event_streams_do_not_hold_up_the_daemon_s_end() {
    let site = Site::new().await;
    let (port, _) = lasting().await;
    site.web("web", port).await;
    let mut events = begun(&site, "/events").await;
    let mut other = begun(&site, "/stream").await;
    site.stop.send(true).unwrap();
    let next = timeout(PATIENCE, events.frame()).await.unwrap();
    assert!(next.is_none(), "it does not end well: {next:?}");
    // What may have an end is waited for, for a while.
    assert!(timeout(PATIENCE / 60, other.frame()).await.is_err());
}
