//! What takes long, or becomes something else.

use std::time::Instant;

use e2e::servers::{HEAD, events, upgrades};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// A stream of events that has begun.
async fn listening(node: &Node, path: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(node.public()).await.unwrap();
    stream.write_all(raw::head("GET", path, &[]).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    raw::until_seen(&mut stream, &mut seen, "data: one").await;
    (stream, seen)
}

#[tokio::test]
async fn events_come_one_by_one() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    events(&mut guest, 8000).await;
    web(&mut guest, "web", 8000).await;
    let (mut stream, mut seen) = listening(&node, "/web/events").await;
    guest.sh("touch /tmp/go").await;
    raw::until_seen(&mut stream, &mut seen, "data: two").await;
}

#[tokio::test]
async fn who_listens_to_events_neither_holds_up_a_restart_nor_outlasts_the_publication() {
    let mut node = start();
    let mut guest = Guest::create(&node, "dev").await;
    events(&mut guest, 8000).await;
    web(&mut guest, "web", 8000).await;
    let (mut stream, _) = listening(&node, "/web/events").await;
    let begin = Instant::now();
    node.restart();
    // Requests that may come to an end are given ten seconds.
    assert!(begin.elapsed() < Duration::from_secs(8), "it took {:?}", begin.elapsed());
    let _ = tokio::time::timeout(HANGS, stream.read_to_end(&mut Vec::new())).await.unwrap();
    let mut guest = guest.by(node.admin());
    let (mut stream, mut seen) = listening(&node, "/web/events").await;
    guest.client.unpublish(&guest.id, 8000).await.unwrap();
    guest.sh("touch /tmp/go").await;
    let _ = tokio::time::timeout(HANGS, stream.read_to_end(&mut seen)).await.unwrap();
    assert!(!String::from_utf8_lossy(&seen).contains("data: two"));
}

#[tokio::test]
async fn a_websocket_passes_and_wakes() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    upgrades(&mut guest, 8001).await;
    web(&mut guest, "ws", 8001).await;
    guest.client.pause(&guest.id).await.unwrap();
    raw::upgrade(TcpStream::connect(node.public()).await.unwrap(), "/ws/").await;
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    const SIZE: usize = 64 << 20;
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let count = format!(
        "{HEAD} sum=$(head -c {SIZE} | md5sum); \
         printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n'; echo $sum"
    );
    answer_with(&mut guest, 8000, &count).await;
    web(&mut guest, "web", 8000).await;
    let content: Vec<u8> =
        (0..SIZE).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let mut stream = TcpStream::connect(node.public()).await.unwrap();
    let length = format!("content-length: {SIZE}");
    stream.write_all(raw::head("PUT", "/web/upload", &[&length]).as_bytes()).await.unwrap();
    stream.write_all(&content).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(2 * HANGS, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    // The same bytes by another way.
    guest.write("/tmp/same", content).await.unwrap();
    let sum = guest.sh("md5sum < /tmp/same").await;
    let sum = sum.split(' ').next().unwrap();
    assert!(answer.contains(sum), "{answer} is not of {sum}");
}

#[tokio::test]
async fn nothing_that_listens_is_a_page_that_looks_again() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    web(&mut guest, "web", 8000).await;
    let page = raw::tcp(node.public(), "GET", "/web/", &["accept: text/html"]).await;
    let text = String::from_utf8(page.body).unwrap();
    assert_eq!(page.status, 502);
    assert!(!text.contains("8000") && text.contains("http-equiv=\"refresh\""), "{text}");
    serve(&mut guest, 8000).await;
    assert!(hello(&get(&node, "/web/").await));
}
