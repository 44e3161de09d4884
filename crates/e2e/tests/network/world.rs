//! The machines around a daemon and what they serve.
//!
//! ```text
//!  guests ── host 198.51.100.2 ──┬── internet 198.51.100.1, 203.0.113.5 and .6
//!                                ├── LAN 192.168.77.7
//!                                └── metadata 169.254.169.254
//! ```

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use api::CreateUser;
use e2e::{Guest, Machine, Node, Options, create_request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::names;

/// Serves `good.example`, names and an echo.
pub(crate) const GOOD: &str = "203.0.113.5";
/// Serves `other.example`.
pub(crate) const OTHER: &str = "203.0.113.6";
pub(crate) const HOST: &str = "198.51.100.2";
pub(crate) const LAN: &str = "192.168.77.7";
pub(crate) const METADATA: &str = "169.254.169.254";
/// Where somebody repeats what he is told.
pub(crate) const ECHO: u16 = 7;
/// Where somebody sends without end.
pub(crate) const FLOOD: u16 = 19;

const CONFIG: &str = "[network]\ndns = ['203.0.113.5:53']\n";

/// A connection that has come to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) at: &'static str,
    pub(crate) from: IpAddr,
    /// The first that was said.
    pub(crate) said: Vec<u8>,
}

type All = Arc<Mutex<Vec<Heard>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) host: Machine,
    pub(crate) internet: Machine,
    heard: All,
}

impl World {
    pub(crate) fn new() -> Self {
        let [host, internet, lan, metadata] = std::array::from_fn(|_| Machine::new());
        host.join(("wan0", "198.51.100.2/24"), &internet, ("eth0", "198.51.100.1/24"));
        internet.ip("addr add 203.0.113.5/32 dev lo");
        internet.ip("addr add 203.0.113.6/32 dev lo");
        host.ip("route add default via 198.51.100.1");
        host.join(("lan0", "192.168.77.1/24"), &lan, ("eth0", "192.168.77.7/24"));
        host.join(("meta0", "169.254.169.1/24"), &metadata, ("eth0", "169.254.169.254/24"));
        let heard = All::default();
        for (machine, at) in
            [(&internet, GOOD), (&internet, OTHER), (&lan, LAN), (&metadata, METADATA)]
        {
            for port in [80, 443] {
                tokio::spawn(serve(machine.listen(&format!("{at}:{port}")), at, heard.clone()));
            }
            tokio::spawn(echo(machine.listen(&format!("{at}:{ECHO}"))));
        }
        // On all of the host's addresses, also those that the daemon gives it.
        tokio::spawn(serve(host.listen("0.0.0.0:80"), HOST, heard.clone()));
        tokio::spawn(flood(internet.listen(&format!("{GOOD}:{FLOOD}"))));
        tokio::spawn(names::answer(internet.datagrams(&format!("{GOOD}:53"))));
        Self { host, internet, heard }
    }

    /// A daemon on the host.
    pub(crate) fn node(&self) -> Node {
        let machine = Some(self.host.clone());
        Node::with(&Options { config: CONFIG, machine, ..Options::default() })
    }

    /// The same, with a guest and a monitor that stand ready for the next sandbox.
    pub(crate) async fn ready_node(&self) -> Node {
        let machine = Some(self.host.clone());
        let options = Options { config: CONFIG, machine, prestarted: 1, ..Options::default() };
        let node = Node::with(&options);
        let mut first = Guest::create(&node, "first").await;
        first.client.destroy(&first.id).await.unwrap();
        node.stands_ready().await;
        node
    }

    /// What was heard since it was last asked for.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

/// A new user's key.
pub(crate) async fn user(node: &Node, name: &str) -> String {
    node.user(CreateUser { name: name.to_owned(), ..CreateUser::default() }).await
}

/// A small sandbox of the user who has this key.
pub(crate) async fn guest_of(node: &Node, key: &str, name: &str) -> Guest {
    Guest::create_by(node.client(key), create_request(name)).await
}

/// Notes what is said first, and answers requests with who is asked and who asks.
async fn serve(listener: TcpListener, at: &'static str, heard: All) {
    while let Ok((connection, from)) = listener.accept().await {
        tokio::spawn(answer(connection, at, from.ip(), heard.clone()));
    }
}

async fn answer(mut connection: TcpStream, at: &'static str, from: IpAddr, heard: All) {
    let mut said = vec![0; 2000];
    let length = connection.read(&mut said).await.unwrap_or(0);
    said.truncate(length);
    let is_request = said.starts_with(b"GET ");
    heard.lock().unwrap().push(Heard { at, from, said });
    if is_request {
        let body = format!("{at} to {from}\n");
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}");
        let _ = connection.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
    }
}

async fn echo(listener: TcpListener) {
    while let Ok((mut connection, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = connection.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

async fn flood(listener: TcpListener) {
    while let Ok((mut connection, _)) = listener.accept().await {
        tokio::spawn(async move { while connection.write_all(&[0; 65536]).await.is_ok() {} });
    }
}
