//! Links to terminals, on real VMs: visitors are raw WebSocket clients, and a real browser.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod browser;
mod life;
mod rights;
mod visitor;

use api::{ErrorCode, ServerMessage, Share, ShareLink};
use e2e::{Guest, Node, Options};

use self::visitor::Visitor;

/// A daemon that serves the public by path.
fn start() -> Node {
    Node::with(&Options { config: "[public]\nlisten = '127.0.0.1:0'\n", ..Options::default() })
}

async fn share(guest: &mut Guest, request: &Share) -> ShareLink {
    guest.client.share(&guest.id, request).await.unwrap()
}

/// Whether this is what is said of every link that does not work.
fn is_refusal(said: Option<ServerMessage>) -> bool {
    matches!(said, Some(ServerMessage::Error(error)) if error.code == ErrorCode::ShareNotFound)
}
