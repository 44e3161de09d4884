//! Ports of the host.

use orchestrator::publications::{PublishRequest, WantedGuard, WantedPlace};

use super::*;
use crate::{
    connections::PerClient,
    public::tcp::{AGAIN, Free},
};

/// A server that sends back whatever comes.
async fn answering_back() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    port
}

/// Listeners besides the site's own.
fn listening(site: &Site, free: Free, per_client: PerClient) -> Arc<HostPorts> {
    let (orchestrator, pool) = (&site.served.app.orchestrator, &site.served.app.pool);
    let rest = (Limits::default(), Vec::new());
    let place = config().site(site.address);
    let public = Public::new(orchestrator.clone(), pool.clone(), place, rest);
    HostPorts::new(public, site.address.ip(), free, per_client)
}

fn wanted(port: u16, host_port: u16) -> PublishRequest {
    let place = WantedPlace::HostPort(host_port);
    PublishRequest { port, place, guard: WantedGuard::Open, allow: Vec::new() }
}

#[tokio::test]
async fn a_port_of_the_host_leads_to_one_of_the_sandbox() {
    let site = Site::new().await;
    let port = answering_back().await;
    let sandbox = site.served.app.orchestrator.find(&owner(&site), "box").unwrap();
    let host_port = free_port().await;
    let wanted = |host_port| wanted(port, host_port);
    let made = site.host_ports.publish(&sandbox, wanted(host_port)).await.unwrap();
    assert!(!made.existing);
    let mut stream = TcpStream::connect(("127.0.0.1", host_port)).await.unwrap();
    stream.write_all(b"there and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, "there and back");
    assert!(site.host_ports.publish(&sandbox, wanted(host_port)).await.unwrap().existing);
    site.served.app.orchestrator.unpublish(&sandbox, port).await.unwrap();
    site.host_ports.settle().await;
    // Free for anybody again, and what somebody else has is refused.
    let _other = TcpListener::bind(("127.0.0.1", host_port)).await.unwrap();
    let refused = site.host_ports.publish(&sandbox, wanted(host_port)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::HostPortTaken);
    for (odd, code) in [(80, ErrorCode::InvalidRequest), (OWN_PORT, ErrorCode::HostPortTaken)] {
        let refused = site.host_ports.publish(&sandbox, wanted(odd)).await.unwrap_err();
        assert_eq!(refused.code, code);
    }
}

/// A port that nobody has at the moment.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_port_that_another_program_has_is_tried_again() {
    let site = Site::new().await;
    let sandbox = site.served.app.orchestrator.find(&owner(&site), "box").unwrap();
    let (port, other) = (answering_back().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let host_port = other.local_addr().unwrap().port();
    // Past those who look whether it is free, as when the daemon starts.
    site.served.app.orchestrator.publish(&sandbox, wanted(port, host_port)).await.unwrap();
    site.host_ports.settle().await;
    drop(other);
    TcpStream::connect(("127.0.0.1", host_port)).await.unwrap_err();
    tokio::time::pause();
    tokio::time::advance(2 * AGAIN).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    TcpStream::connect(("127.0.0.1", host_port)).await.unwrap();
}

#[tokio::test]
async fn what_became_the_daemon_s_own_port_is_not_served() {
    let site = Site::new().await;
    // The site's own listeners would serve it.
    site.stop.send(true).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let sandbox = site.served.app.orchestrator.find(&owner(&site), "box").unwrap();
    let [own, other] = [free_port().await, free_port().await];
    for (port, host_port) in [(answering_back().await, own), (answering_back().await, other)] {
        site.served.app.orchestrator.publish(&sandbox, wanted(port, host_port)).await.unwrap();
    }
    let free = Free { range: 1024..=u16::MAX, reserved: vec![own] };
    let ports = listening(&site, free, PerClient::new(10, |_| false));
    ports.settle().await;
    TcpStream::connect(("127.0.0.1", own)).await.unwrap_err();
    TcpStream::connect(("127.0.0.1", other)).await.unwrap();
}

#[tokio::test]
async fn connections_of_a_client_are_counted_on_all_ports_together() {
    let site = Site::new().await;
    let sandbox = site.served.app.orchestrator.find(&owner(&site), "box").unwrap();
    let free = Free { range: 1024..=u16::MAX, reserved: Vec::new() };
    let ports = listening(&site, free, PerClient::new(1, |_| false));
    let mut host_ports = Vec::new();
    for _ in 0..2 {
        host_ports.push(free_port().await);
        let wanted = wanted(answering_back().await, host_ports[host_ports.len() - 1]);
        // Not served by the site's own, which is not asked.
        ports.publish(&sandbox, wanted).await.unwrap();
    }
    let echoes = async |port: u16, stream: &mut TcpStream| {
        let _ = stream.write_all(b"x").await;
        let mut back = [0];
        let read = timeout(PATIENCE, stream.read(&mut back)).await.unwrap();
        assert!(matches!(read, Ok(0 | 1) | Err(_)), "port {port}");
        matches!(read, Ok(1))
    };
    let connect = async |port: u16| TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut first = connect(host_ports[0]).await;
    assert!(echoes(host_ports[0], &mut first).await);
    let mut second = connect(host_ports[1]).await;
    assert!(!echoes(host_ports[1], &mut second).await, "a second one is let in");
}
