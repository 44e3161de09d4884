use std::time::Duration;

use proto::mux::Stream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::{Sandbox, model::Caller, testing};

const PATIENCE: Duration = Duration::from_secs(30);

async fn sandbox() -> (Sandbox, testing::Agent) {
    testing::sandbox(&base::ids::UserId::random(), "box").await
}

/// A tunnel and the agent's end of it.
async fn tunnel() -> (Sandbox, Tunnel, Stream) {
    let (sandbox, mut agent) = sandbox().await;
    let agent = async move {
        let mut stream = agent.incoming.next().await.unwrap();
        let asked: Request = stream.recv_json().await.unwrap().unwrap();
        assert_eq!(asked, Request::Tunnel { port: 80 });
        stream.send_json(&Response::Done).await.unwrap();
        tokio::spawn(async move { while agent.incoming.next().await.is_some() {} });
        stream
    };
    let (tunnel, stream) = tokio::join!(sandbox.tunnel(Caller::Owner, 80), agent);
    (sandbox, tunnel.unwrap(), stream)
}

async fn frame(stream: &mut Stream) -> Vec<u8> {
    timeout(PATIENCE, stream.recv()).await.unwrap().unwrap().unwrap().payload
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (_sandbox, mut tunnel, mut guest) = tunnel().await;
    tunnel.write_all(b"question").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(frame(&mut guest).await, b"question");
    assert_eq!(frame(&mut guest).await, b"");
    assert_eq!(tunnel.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    guest.send_data(FrameKind::Data, b"answer").await.unwrap();
    guest.send_data(FrameKind::Data, b"").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, tunnel.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(tunnel.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
}

#[tokio::test]
async fn the_guest_may_end_first() {
    let (_sandbox, mut tunnel, mut guest) = tunnel().await;
    guest.send_data(FrameKind::Data, b"").await.unwrap();
    assert_eq!(tunnel.read(&mut [0; 8]).await.unwrap(), 0);
    tunnel.write_all(b"still heard").await.unwrap();
    tunnel.flush().await.unwrap();
    assert_eq!(frame(&mut guest).await, b"still heard");
    drop(tunnel);
    assert!(timeout(PATIENCE, guest.recv()).await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn a_connection_that_the_guest_resets_is_an_error() {
    let (_sandbox, mut tunnel, mut guest) = tunnel().await;
    guest.send_data(FrameKind::Data, b"half").await.unwrap();
    drop(guest);
    let mut got = Vec::new();
    let ended = timeout(PATIENCE, tunnel.read_to_end(&mut got)).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(got, b"half");
    let written = timeout(PATIENCE, tunnel.write_all(&[0; 1 << 20])).await.unwrap();
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_guest_that_does_not_read_holds_the_writer_back() {
    const TOTAL: usize = 4 << 20;
    let (_sandbox, tunnel, mut guest) = tunnel().await;
    let (mut read, mut write) = tokio::io::split(tunnel);
    let data: Vec<u8> = (0..TOTAL).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let expected = data.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&data).await.unwrap();
        write.shutdown().await.unwrap();
    });
    // The other direction is not held back.
    guest.send_data(FrameKind::Data, b"here").await.unwrap();
    let mut here = [0; 4];
    timeout(PATIENCE, read.read_exact(&mut here)).await.unwrap().unwrap();
    assert!(!writing.is_finished());
    let mut got = Vec::new();
    loop {
        let piece = frame(&mut guest).await;
        assert!(piece.len() <= DATA_CHUNK);
        if piece.is_empty() {
            break;
        }
        got.extend(piece);
    }
    assert!(got == expected);
    writing.await.unwrap();
}

#[tokio::test]
async fn a_tunnel_counts_while_it_is_held() {
    let (sandbox, mut tunnel, _guest) = tunnel().await;
    assert_eq!(sandbox.activity().tunnels, 1);
    let hold = tunnel.take_hold();
    assert!(hold.is_some() && tunnel.take_hold().is_none());
    drop(hold);
    assert_eq!(sandbox.activity().tunnels, 0);
    let hold = sandbox.awake(Caller::Owner).await.unwrap().into_hold();
    assert_eq!(sandbox.activity().tunnels, 1);
    drop(hold);
}

#[tokio::test]
async fn ports_are_reached_and_closed_ones_are_told() {
    let (sandbox, agent) = sandbox().await;
    let power = agent.power.clone();
    tokio::spawn(agent.serve_tunnels());
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        drop(server);
    });
    power.sleep();
    let mut tunnel = sandbox.tunnel(Caller::Owner, port).await.unwrap();
    assert_eq!(power.wakes(), 1);
    tunnel.write_all(b"echo").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut echo = Vec::new();
    timeout(PATIENCE, tunnel.read_to_end(&mut echo)).await.unwrap().unwrap();
    assert_eq!(echo, b"echo");

    let refused = sandbox.tunnel(Caller::Owner, port).await.unwrap_err();
    assert_eq!(refused.kind, Kind::PortClosed);
    assert!(refused.hint.unwrap().contains(&port.to_string()));
    assert_eq!(sandbox.activity().tunnels, 1, "only the one that is open");
}

#[tokio::test]
async fn a_session_that_ends_takes_its_tunnels_along() {
    let (sandbox, agent) = sandbox().await;
    let power = agent.power.clone();
    tokio::spawn(agent.serve_tunnels());
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut tunnel = sandbox.tunnel(Caller::Owner, port).await.unwrap();
    power.cut();
    let ended = timeout(PATIENCE, tunnel.read(&mut [0; 8])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn looking_at_ports_never_wakes() {
    let (sandbox, mut agent) = sandbox().await;
    let power = agent.power.clone();
    tokio::spawn(async move {
        while let Some(mut stream) = agent.incoming.next().await {
            assert_eq!(stream.recv_json::<Request>().await.unwrap(), Some(Request::Ports));
            stream.send_json(&Response::Ports { ports: Vec::new() }).await.unwrap();
        }
    });
    assert_eq!(sandbox.ports_if_hot().await.unwrap(), Some(Vec::new()));
    power.sleep();
    assert_eq!(sandbox.ports_if_hot().await.unwrap(), None);
    assert_eq!(sandbox.ports().await.unwrap_err().kind, Kind::WrongState);
    assert_eq!(power.wakes(), 0);
}
