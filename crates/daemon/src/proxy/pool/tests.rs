use orchestrator::{model::Caller, testing};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::testing::PATIENCE;

/// A server that answers whatever comes and tells when a connection has ended.
async fn server() -> (u16, tokio::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, ended) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut chunk = [0; 4096];
                while stream.read(&mut chunk).await.unwrap_or_default() > 0 {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
                let _ = sender.send(()).await;
            });
        }
    });
    (port, ended)
}

fn key(sandbox: &str, port: u16) -> Key {
    Key { sandbox: sandbox.to_owned(), port, protocol: Protocol::Http1 }
}

async fn lease(pool: &Pool, sandbox: &orchestrator::Sandbox, port: u16) -> Lease {
    let mut tunnel = sandbox.tunnel(Caller::Owner, port).await.unwrap();
    let keep = Keep::new(tunnel.take_hold(), None);
    let mut lease = pool.connect(key("id", port), tunnel, keep).await.unwrap();
    let request = Request::builder().uri("/").header("host", "x").body(Body::empty()).unwrap();
    let answer = timeout(PATIENCE, lease.send(request)).await.unwrap().unwrap();
    assert!(answer.status().is_success());
    lease
}

async fn sandbox() -> orchestrator::Sandbox {
    let (sandbox, agent) = testing::sandbox_of_nobody().await;
    tokio::spawn(agent.serve_tunnels());
    sandbox
}

#[tokio::test]
async fn what_is_idle_keeps_nothing_awake_and_ends() {
    let (sandbox, (port, mut ended)) = (sandbox().await, server().await);
    let pool = Pool::with_patience(Duration::from_millis(100));
    let lease = lease(&pool, &sandbox, port).await;
    assert_eq!(sandbox.activity().tunnels, 1);
    lease.give_back();
    assert_eq!((sandbox.activity().tunnels, pool.idle()), (0, 1));
    assert!(pool.take(&key("other", port)).is_none());
    timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn a_lease_that_is_dropped_ends_its_connection() {
    let (sandbox, (port, mut ended)) = (sandbox().await, server().await);
    let pool = Pool::default();
    drop(lease(&pool, &sandbox, port).await);
    timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    assert_eq!((sandbox.activity().tunnels, pool.idle()), (0, 0));
}

#[tokio::test]
async fn no_more_than_a_few_are_kept() {
    let (sandbox, (port, mut ended)) = (sandbox().await, server().await);
    let pool = Pool::default();
    let mut leases = Vec::new();
    for _ in 0..IDLE_PER_PORT + 2 {
        leases.push(lease(&pool, &sandbox, port).await);
    }
    leases.into_iter().for_each(Lease::give_back);
    assert_eq!(pool.idle(), IDLE_PER_PORT);
    for _ in 0..2 {
        timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    }
    // The pool going away takes them along.
    drop(pool);
    for _ in 0..IDLE_PER_PORT {
        timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    }
}
