use orchestrator::{
    message::{ErrorCode as WireCode, PortInfo, Request as Asked, Response as Answer, WireError},
    testing::{Agent, registered},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::testing::{PATIENCE, Served, failure, whole};

#[test]
fn ports_are_numbers_of_digits() {
    assert_eq!(parse_port("1").unwrap(), 1);
    assert_eq!(parse_port("65535").unwrap(), 65535);
    for bad in ["", "0", "65536", "+80", "-1", "80a", " 80", "８０"] {
        assert_eq!(parse_port(bad).unwrap_err().code, ErrorCode::InvalidRequest, "{bad}");
    }
}

/// A guest in which something listens on a port; or one that cannot tell.
async fn serve(mut agent: Agent, port: Option<u16>) {
    while let Some(mut stream) = agent.incoming.next().await {
        assert_eq!(stream.recv_json::<Asked>().await.unwrap(), Some(Asked::Ports));
        let answer = match port {
            Some(port) => Answer::Ports {
                ports: vec![PortInfo {
                    port,
                    address: "0.0.0.0".to_owned(),
                    pid: Some(7),
                    process: Some("web".to_owned()),
                }],
            },
            None => Answer::Error(WireError { code: WireCode::Failed, message: "no".to_owned() }),
        };
        stream.send_json(&answer).await.unwrap();
    }
}

#[tokio::test]
async fn what_listens_is_listed_and_looking_at_all_wakes_none() {
    let (served, agent) = Served::new().await;
    let user = served.app.store.user_by_key(&served.key).unwrap();
    let add = async |name| registered(&served.app.orchestrator, &user.id, name).await;
    let (asleep, broken) = (add("asleep").await, add("broken").await);
    let power = asleep.power.clone();
    power.sleep();
    tokio::spawn(serve(agent, Some(80)));
    tokio::spawn(serve(asleep, Some(81)));
    tokio::spawn(serve(broken, None));

    let all: Vec<Port> = serde_json::from_slice(&whole(served.get("/ports").await).await).unwrap();
    let id = served.app.orchestrator.find(&user.id, "box").unwrap().view().id.to_string();
    let expected = Port {
        container_port: 80,
        proxy_url: format!("/sandboxes/{id}/proxy/80/"),
        address: "0.0.0.0".to_owned(),
        process: Some("web".to_owned()),
        pid: Some(7),
        sandbox_id: None,
    };
    assert_eq!(all, [Port { sandbox_id: Some(id), ..expected.clone() }]);
    assert_eq!(power.wakes(), 0);
    let one = whole(served.get("/sandboxes/box/ports").await).await;
    assert_eq!(serde_json::from_slice::<Vec<Port>>(&one).unwrap(), [expected]);
    let unknown = failure(served.get("/sandboxes/asleep/ports").await).await;
    assert_eq!(unknown.code, ErrorCode::WrongState, "it has not said what listens in it");
    assert_eq!(power.wakes(), 0);
}

/// Asks for a tunnel over a connection of its own, with `more` after the head.
async fn ask(served: &Served, port: u16, headers: &str, more: &str) -> TcpStream {
    let mut client = TcpStream::connect(served.address).await.unwrap();
    let ask = format!(
        "GET /sandboxes/box/ports/{port}/tunnel HTTP/1.1\r\nhost: x\r\n\
         authorization: Bearer {}\r\n{headers}\r\n{more}",
        served.key
    );
    client.write_all(ask.as_bytes()).await.unwrap();
    client
}

async fn rest(client: &mut TcpStream) -> String {
    let mut got = String::new();
    timeout(PATIENCE, client.read_to_string(&mut got)).await.unwrap().unwrap();
    got
}

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: Bhatti-Tunnel\r\n";

#[tokio::test]
async fn a_tunnel_is_a_byte_stream_whose_directions_end_by_themselves() {
    let (served, agent) = Served::new().await;
    tokio::spawn(agent.serve_tunnels());
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut client = ask(&served, port, UPGRADE, "early,").await;
    let (mut guest, _) = timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, guest.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "early,late");
    let large = "x".repeat(3 << 20);
    guest.write_all(large.as_bytes()).await.unwrap();
    drop(guest);
    let got = rest(&mut client).await;
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: bhatti-tunnel"), "{head}");
    assert!(body == large);
}

#[tokio::test]
async fn the_end_of_the_daemon_is_the_end_of_its_tunnels() {
    let (served, agent) = Served::new().await;
    tokio::spawn(agent.serve_tunnels());
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = ask(&served, server.local_addr().unwrap().port(), UPGRADE, "").await;
    let (mut guest, _) = timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
    guest.write_all(b"!").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"!") {
        timeout(PATIENCE, client.read_buf(&mut got)).await.unwrap().unwrap();
    }
    served.stop.send(true).unwrap();
    assert_eq!(rest(&mut client).await, "");
    let mut end = Vec::new();
    timeout(PATIENCE, guest.read_to_end(&mut end)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_tunnel_that_cannot_be_is_refused_before_the_upgrade() {
    let (served, agent) = Served::new().await;
    tokio::spawn(agent.serve_tunnels());
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = server.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let foreign = format!("{UPGRADE}Origin: http://evil\r\n");
    for (port, headers, status) in [
        (closed, UPGRADE, "502"),
        (0, UPGRADE, "400"),
        (open, "", "400"),
        (open, "Upgrade: bhatti-tunnel\r\n", "400"),
        (open, "Connection: upgrade\r\nUpgrade: websocket\r\n", "400"),
        (open, foreign.as_str(), "403"),
    ] {
        let close = format!("{headers}Connection: close\r\n");
        let mut client = ask(&served, port, &close, "").await;
        let got = rest(&mut client).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {got}");
    }
    let request = served.request("GET", "/sandboxes/box/ports/1/tunnel");
    let told = failure(served.send(request.body(axum::body::Body::empty()).unwrap()).await).await;
    assert!(told.hint.unwrap().contains("Upgrade: bhatti-tunnel"));
}
