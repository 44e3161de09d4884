//! Ports of a sandbox, without any network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
};

use api::ErrorCode;
use base::process::Command;
use e2e::{
    Guest, Node, raw, refused,
    servers::{ECHO, answer_with, events, serve, upgrades},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn what_listens_is_listed_with_the_process_s_name() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    assert!(guest.client.ports(&guest.id).await.unwrap().is_empty());
    serve(&mut guest, 8000).await;
    let ports = guest.client.ports(&guest.id).await.unwrap();
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[0].container_port, ports[0].address.as_str()), (8000, "127.0.0.1"));
    assert_eq!(ports[0].process.as_deref(), Some("httpd"));
    let all = guest.client.all_ports().await.unwrap();
    assert_eq!(all[0].sandbox_id.as_deref(), Some(guest.id.as_str()));
    let shown = String::from_utf8(node.cli(&["ports", "dev"]).stdout).unwrap();
    assert!(shown.contains("8000") && shown.contains("httpd"), "{shown}");
    guest.stop().await;
    assert!(guest.client.all_ports().await.unwrap().is_empty());
    assert!(node.monitors().is_empty(), "looking has woken it");
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_each_end_alone() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    answer_with(&mut guest, 9000, "cat; echo end").await;
    let mut tunnel = guest.client.tunnel(&guest.id, 9000).await.unwrap();
    let content: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut from, mut to) = tokio::io::split(&mut tunnel);
    let sent = async {
        to.write_all(&content).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, count) = tokio::join!(sent, from.read_to_end(&mut received));
    count.unwrap();
    assert_eq!(&received[content.len()..], b"end\n");
    assert!(received[..content.len()] == content);
    let closed = guest.client.tunnel(&guest.id, 9999).await.map(drop);
    assert_eq!(refused(closed).code, ErrorCode::PortClosed);
}

#[tokio::test]
async fn a_forwarded_port_survives_the_sandbox_s_sleep() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    serve(&mut guest, 8000).await;
    let mut forward = Command::new(node.binary())
        .env("HOME", node.data())
        .env("BHATTI_DATA_DIR", node.data())
        .args(["forward", "dev", "8000:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn_child()
        .unwrap();
    let mut line = String::new();
    BufReader::new(forward.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().next().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    let get = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get().ends_with("hello\n"));
    guest.stop().await;
    assert!(get().ends_with("hello\n"));
    guest.client.pause(&guest.id).await.unwrap();
    assert!(get().ends_with("hello\n"));
    forward.kill().unwrap();
    forward.wait().unwrap();
}

#[tokio::test]
async fn the_proxy_passes_requests_on_as_they_are() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    answer_with(&mut guest, 8000, ECHO).await;
    let path = format!("/sandboxes/{}/proxy/8000/a%2Fb//c%20d?q=%26&x", guest.id);
    let headers = ["x-forwarded-for: 1.2.3.4", "authorization: Basic abc", "x-own: me"];
    let answer = raw::unix_with(&node.socket(), "GET", &path, &headers).await;
    let seen = String::from_utf8(answer.body.clone()).unwrap().to_lowercase();
    assert_eq!((answer.status, answer.header("x-own")), (200, Some("yes")));
    assert!(seen.contains("\nget /a%2fb//c%20d?q=%26&x http/1.1\n"), "{seen}");
    assert!(
        seen.contains("host: localhost:8000\n") && seen.contains("x-forwarded-host: localhost\n")
    );
    assert!(seen.contains("x-forwarded-for: 1.2.3.4") && seen.contains("x-own: me\n"));
    assert!(seen.contains("authorization: basic abc\n"), "the guest's own authorization is lost");
    // A key is for the daemon alone.
    let key = node.user(api::CreateUser { name: "bob".to_owned(), ..Default::default() }).await;
    let mut theirs = Guest::create_by(node.client(&key), e2e::create_request("theirs")).await;
    answer_with(&mut theirs, 8000, ECHO).await;
    let path = format!("/sandboxes/{}/proxy/8000/", theirs.id);
    for headers in [
        vec![format!("authorization: Bearer {key}")],
        vec![format!("x-bhatti-token: {key}"), "authorization: Bearer own".to_owned()],
    ] {
        let lines: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = raw::tcp(node.tcp(), "GET", &path, &lines).await;
        let seen = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, 200, "{seen}");
        assert!(!seen.contains("bht_"), "{seen}");
        assert_eq!(seen.to_lowercase().contains("authorization: bearer own"), headers.len() == 2);
        assert!(seen.to_lowercase().contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
    }
    let nobody = raw::tcp(node.tcp(), "GET", &path, &[]).await;
    assert_eq!(nobody.status, 401);
    let path = format!("/sandboxes/{}/proxy/8001/", guest.id);
    let closed = raw::unix(&node.socket(), "GET", &path, b"").await;
    assert_eq!((closed.status, closed.error().code), (502, ErrorCode::PortClosed));
    for bad in ["0", "65536", "x"] {
        let path = format!("/sandboxes/{}/proxy/{bad}/", guest.id);
        let answer = raw::unix(&node.socket(), "GET", &path, b"").await;
        assert_eq!(answer.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn the_proxy_streams_wakes_and_upgrades() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    events(&mut guest, 8000).await;
    let mut stream = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
    let path = format!("/sandboxes/{}/proxy/8000/events", guest.id);
    stream.write_all(raw::head("GET", &path, &[]).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    raw::until_seen(&mut stream, &mut seen, "data: one").await;
    guest.sh("touch /tmp/go").await;
    stream.read_to_end(&mut seen).await.unwrap();
    assert!(String::from_utf8_lossy(&seen).contains("data: two"));

    upgrades(&mut guest, 8001).await;
    guest.stop().await;
    let stream = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
    raw::upgrade(stream, &format!("/sandboxes/{}/proxy/8001/ws", guest.id)).await;
}
