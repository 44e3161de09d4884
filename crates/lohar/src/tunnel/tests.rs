use proto::frame::FrameKind;
use proto::message::{Activity, ErrorCode, Request, Response};
use proto::mux::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::testing::{Guest, PATIENCE, ask, hear, open};

async fn listen(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn tunnels(host: &Session) -> u32 {
    match ask(host, &Request::Activity).await {
        Response::Activity(Activity { tunnels, .. }) => tunnels,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn ten_megabytes_go_both_ways_and_each_way_ends_by_itself() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (listener, port) = listen("127.0.0.1:0").await;
    let echo = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = socket.split();
        let count = tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        // Only after the host has ended its direction.
        writer.write_all(b"bye").await.unwrap();
        count
    });
    let mut stream = open(&host, &Request::Tunnel { port }).await;
    assert_eq!(hear(&mut stream).await, Response::Done);
    assert_eq!(tunnels(&host).await, 1);
    let content: Vec<u8> = (0..=250).cycle().take(10_000_000).collect();
    let (mut send, mut recv) = stream.split();
    let sending = async {
        send.send_data(FrameKind::Data, &content).await.unwrap();
        send.send_data(FrameKind::Data, &[]).await.unwrap();
    };
    let receiving = async {
        let mut got = Vec::new();
        loop {
            let frame = recv.recv().await.unwrap().unwrap();
            assert_eq!(frame.kind, FrameKind::Data);
            if frame.payload.is_empty() {
                return got;
            }
            got.extend(frame.payload);
        }
    };
    let ((), got) = timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
    assert_eq!(echo.await.unwrap(), 10_000_000);
    assert!(got[..10_000_000] == content && got[10_000_000..] == *b"bye");
    assert_eq!(timeout(PATIENCE, recv.recv()).await.unwrap().unwrap(), None);
    assert_eq!(tunnels(&host).await, 0);
}

#[tokio::test]
async fn the_guest_may_end_first() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"hello").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut got = Vec::new();
        socket.read_to_end(&mut got).await.unwrap();
        got
    });
    let mut stream = open(&host, &Request::Tunnel { port }).await;
    assert_eq!(hear(&mut stream).await, Response::Done);
    let mut got = Vec::new();
    loop {
        let frame = timeout(PATIENCE, stream.recv()).await.unwrap().unwrap().unwrap();
        if frame.payload.is_empty() {
            break;
        }
        got.extend(frame.payload);
    }
    assert_eq!(got, b"hello");
    stream.send_data(FrameKind::Data, b"answer").await.unwrap();
    stream.send_data(FrameKind::Data, &[]).await.unwrap();
    assert_eq!(timeout(PATIENCE, server).await.unwrap().unwrap(), b"answer");
    assert_eq!(timeout(PATIENCE, stream.recv()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_closed_port_is_called_that() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (listener, port) = listen("127.0.0.1:0").await;
    drop(listener);
    for port in [port, 0] {
        match ask(&host, &Request::Tunnel { port }).await {
            Response::Error(error) => assert_eq!(error.code, ErrorCode::PortClosed),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tunnels(&host).await, 0);
}

#[tokio::test]
async fn a_host_that_is_gone_resets_the_connection() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (listener, port) = listen("127.0.0.1:0").await;
    // One that never reads and never writes.
    let mut stream = open(&host, &Request::Tunnel { port }).await;
    assert_eq!(hear(&mut stream).await, Response::Done);
    let (mut socket, _) = listener.accept().await.unwrap();
    let block = vec![1; 64 * 1024];
    // The agent is stuck with what the server does not take.
    while timeout(std::time::Duration::from_millis(200), stream.send_data(FrameKind::Data, &block))
        .await
        .is_ok()
    {}
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    drop(stream);
    let read = async {
        let mut sink = vec![0; 1 << 20];
        loop {
            match socket.read(&mut sink).await {
                Ok(0) => panic!("what was cut off looks complete"),
                Ok(_) => {}
                Err(error) => return error.kind(),
            }
        }
    };
    let error = timeout(PATIENCE, read).await.unwrap();
    assert_eq!(error, std::io::ErrorKind::ConnectionReset);
    timeout(PATIENCE, async { while tunnels(&host).await > 0 {} }).await.unwrap();
}

#[tokio::test]
async fn a_reset_in_the_guest_does_not_look_like_an_end() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (listener, port) = listen("127.0.0.1:0").await;
    let mut stream = open(&host, &Request::Tunnel { port }).await;
    assert_eq!(hear(&mut stream).await, Response::Done);
    let (socket, _) = listener.accept().await.unwrap();
    rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO)).unwrap();
    drop(socket);
    assert_eq!(timeout(PATIENCE, stream.recv()).await.unwrap().unwrap(), None);
}
