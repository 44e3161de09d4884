//! Raw TCP on a port of the host.

use e2e::refused;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A port that nobody has at the moment.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn echoes(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    stream.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    let read = tokio::time::timeout(HANGS, stream.read_exact(&mut back)).await.unwrap();
    read.is_ok() && back == *b"there and back"
}

#[tokio::test]
async fn a_port_of_the_host_leads_into_the_sandbox_for_as_long_as_it_is_published() {
    let mut node = start();
    let mut guest = Guest::create(&node, "dev").await;
    answer_with(&mut guest, 9000, "cat").await;
    let port = free_port().await;
    let request = Publish { port: 9000, host_port: Some(port), ..Publish::default() };
    let (rule, _) = guest.client.publish(&guest.id, &request).await.unwrap();
    assert_eq!(rule.url.unwrap(), format!("tcp://127.0.0.1:{port}"));
    assert!(echoes(port).await);
    guest.client.pause(&guest.id).await.unwrap();
    assert!(echoes(port).await, "it is not woken");
    node.restart();
    assert!(echoes(port).await, "it is not bound again");
    let mut guest = guest.by(node.admin());
    guest.stop().await;
    assert!(!echoes(port).await, "what its owner stopped was started");
    guest.client.unpublish(&guest.id, 9000).await.unwrap();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    // What another program has is told.
    let _other = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let taken = guest.client.publish(&guest.id, &request).await;
    assert_eq!(refused(taken).code, ErrorCode::HostPortTaken);
    assert!(guest.client.published(&guest.id).await.unwrap().is_empty());
}
