use axum::{http::Request, routing::any};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use tokio::{
    io::duplex,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, advance},
};

use super::*;
use crate::{auth::Peer, connections::Ending};

/// A connection, whoever serves it, and the word to stop.
async fn connected(
    router: Router,
) -> (SendRequest<Empty<Bytes>>, JoinHandle<()>, watch::Sender<bool>) {
    let (near, far) = duplex(64 << 10);
    let (word, stop) = watch::channel(false);
    let ending = Ending(stop.clone());
    let from = Whence { peer: Peer::Tcp, address: None, secure: None, ending };
    let served = tokio::spawn(serve(far, from, router, stop));
    let connecting =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near));
    let (sender, connection) = connecting.await.unwrap();
    tokio::spawn(connection);
    (sender, served, word)
}

fn request() -> Request<Empty<Bytes>> {
    Request::builder().uri("http://x/").body(Empty::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_nothing_is_not_kept() {
    let (_sender, served, _word) = connected(Router::new()).await;
    let start = Instant::now();
    served.await.unwrap();
    assert!(start.elapsed() >= FIRST_HEAD_TIME && start.elapsed() < HEAD_TIME);
}

#[tokio::test(start_paused = true)]
async fn a_connection_idles_for_a_while_after_a_request_and_never_during_one() {
    let go = Arc::new(Notify::new());
    let waits = Arc::clone(&go);
    let router = Router::new().fallback(any(async move || waits.notified().await));
    let (mut sender, served, _word) = connected(router).await;
    let answer = tokio::spawn(sender.send_request(request()));
    for _ in 0..10 {
        advance(HEAD_TIME / 2).await;
        tokio::task::yield_now().await;
    }
    assert!(!served.is_finished(), "it ended in the middle of a request");
    go.notify_one();
    drop(answer.await.unwrap().unwrap());
    let start = Instant::now();
    served.await.unwrap();
    assert!(start.elapsed() <= 2 * HEAD_TIME, "{:?}", start.elapsed());
}
