//! Ports of sandboxes that the public reaches, on real VMs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod life;
mod rights;
mod streams;
mod tcp;
mod wake;

use std::time::Duration;

use api::{ErrorCode, Publish, PublishRule};
use e2e::{
    Guest, Node, Options,
    raw::{self, Answer},
    servers::{answer_with, serve},
};

/// Whoever waits for so long waits for ever.
const HANGS: Duration = Duration::from_secs(60);

/// A daemon that serves the public by path.
fn start() -> Node {
    with("[public]\nlisten = '127.0.0.1:0'\nhost_ports = '1024-65535'\n")
}

fn with(config: &'static str) -> Node {
    Node::with(&Options { config, ..Options::default() })
}

/// Publishes a port below an alias.
async fn web(guest: &mut Guest, alias: &str, port: u16) -> PublishRule {
    let alias = Some(alias.to_owned());
    let request = Publish { port, alias, ..Publish::default() };
    let (rule, existing) = guest.client.publish(&guest.id, &request).await.unwrap();
    assert!(!existing);
    rule
}

/// A sandbox whose files are served below an alias.
async fn site(node: &Node, name: &str, alias: &str) -> Guest {
    let mut guest = Guest::create(node, name).await;
    serve(&mut guest, 8000).await;
    web(&mut guest, alias, 8000).await;
    guest
}

async fn get(node: &Node, path: &str) -> Answer {
    raw::tcp(node.public(), "GET", path, &["accept: application/json"]).await
}

fn hello(answer: &Answer) -> bool {
    answer.status == 200 && answer.body == b"hello\n"
}
