//! What takes long, or becomes something else.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// Reads a request's head in the guest.
const HEAD: &str = "while read -r line; do [ ${#line} -le 1 ] && break; done;";

async fn until_seen(stream: &mut TcpStream, seen: &mut Vec<u8>, word: &[u8]) {
    while !seen.windows(word.len()).any(|part| part == word) {
        let read = tokio::time::timeout(HANGS, stream.read_buf(seen)).await.unwrap().unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(seen));
    }
}

#[tokio::test]
async fn events_come_one_by_one() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let events = format!(
        "{HEAD} printf 'HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nConnection: close\\r\\n\\r\\n'; \
         echo 'data: one'; while [ ! -e /tmp/go ]; do usleep 1000; done; echo 'data: two'"
    );
    answer_with(&mut guest, 8000, &events).await;
    web(&mut guest, "web", 8000).await;
    let mut stream = TcpStream::connect(node.public()).await.unwrap();
    stream.write_all(raw::head("GET", "/web/events", &[]).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    until_seen(&mut stream, &mut seen, b"data: one").await;
    guest.sh("touch /tmp/go").await;
    until_seen(&mut stream, &mut seen, b"data: two").await;
}

#[tokio::test]
async fn a_websocket_passes_and_wakes() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let upgrade = format!(
        "{HEAD} printf 'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\nhello'; cat"
    );
    answer_with(&mut guest, 8001, &upgrade).await;
    web(&mut guest, "ws", 8001).await;
    guest.client.pause(&guest.id).await.unwrap();
    let mut stream = TcpStream::connect(node.public()).await.unwrap();
    let head = "GET /ws/ HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    until_seen(&mut stream, &mut seen, b"hello").await;
    assert!(seen.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(&[0, 0xff, 7]).await.unwrap();
    let mut echoed = [0; 3];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, [0, 0xff, 7]);
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
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
async fn nothing_that_listens_is_a_page_that_names_the_port() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    web(&mut guest, "web", 8000).await;
    let page = raw::tcp(node.public(), "GET", "/web/", &["accept: text/html"]).await;
    let text = String::from_utf8(page.body).unwrap();
    assert_eq!(page.status, 502);
    assert!(text.contains("port 8000") && text.contains("http-equiv=\"refresh\""), "{text}");
    serve(&mut guest, 8000).await;
    assert!(hello(&get(&node, "/web/").await));
}
