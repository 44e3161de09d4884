use std::time::Duration;

use api::{
    ClientMessage, ServerMessage, ShareHello, ShareLink, ShareResume, SharedPlace,
    client::{Client, ClientError, Endpoint, WebSocket},
};
use e2e::Node;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

/// Whoever has said nothing for so long never will.
const HANGS: Duration = Duration::from_secs(90);

/// Somebody without an account, and without a browser that would keep to the rules.
pub(crate) struct Visitor {
    socket: WebSocket,
    /// Output that nobody has asked for yet.
    pub(crate) heard: Vec<u8>,
    /// Bytes of output so far.
    pub(crate) count: u64,
}

/// How the daemon is asked for this share.
pub(crate) async fn connect(node: &Node, id: &str) -> Result<WebSocket, ClientError> {
    let (host, port) = (node.public().ip().to_string(), node.public().port());
    let client = Client::new(Endpoint::Tcp { host, port }, None);
    client.websocket(&format!("/_shell/{id}/ws")).await
}

impl Visitor {
    /// Comes with an id and a token, whatever they are.
    pub(crate) async fn with(
        node: &Node,
        id: &str,
        token: &str,
        resume: Option<ShareResume>,
    ) -> Self {
        let mut socket = connect(node, id).await.unwrap();
        let hello = ShareHello { token: token.to_owned(), rows: Some(24), cols: Some(80), resume };
        let hello = serde_json::to_string(&hello).unwrap();
        socket.send(Message::text(hello)).await.unwrap();
        Self { socket, heard: Vec::new(), count: 0 }
    }

    /// Comes by a link and waits for the terminal.
    pub(crate) async fn arrive(node: &Node, link: &ShareLink) -> (Self, SharedPlace) {
        Self::arrive_at(node, link, None).await
    }

    pub(crate) async fn arrive_at(
        node: &Node,
        link: &ShareLink,
        resume: Option<ShareResume>,
    ) -> (Self, SharedPlace) {
        let mut visitor = Self::with(node, &link.id, link.token.as_ref().unwrap(), resume).await;
        match visitor.says().await {
            Some(ServerMessage::Connected(shown)) => assert_eq!(shown.read_only, link.read_only),
            other => panic!("{other:?}"),
        }
        match visitor.says().await {
            Some(ServerMessage::Session { session_id, place: Some(place), .. }) => {
                assert_eq!(session_id, link.session);
                (visitor, place)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next message; output before it is kept. `None` at the end.
    pub(crate) async fn says(&mut self) -> Option<ServerMessage> {
        loop {
            match tokio::time::timeout(HANGS, self.socket.next()).await.unwrap() {
                None | Some(Ok(Message::Close(_)) | Err(_)) => return None,
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).ok(),
                Some(Ok(Message::Binary(bytes))) => self.keep(&bytes),
                Some(Ok(_)) => {}
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        self.count += bytes.len() as u64;
    }

    /// Waits until the terminal shows something.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.text().contains(text) {
            match tokio::time::timeout(HANGS, self.socket.next()).await.unwrap() {
                Some(Ok(Message::Binary(bytes))) => self.keep(&bytes),
                Some(Ok(Message::Text(said))) if said.contains("resized") => {}
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?} before {text:?}: {}", self.text()),
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }

    pub(crate) async fn types(&mut self, text: &str) {
        self.socket.send(Message::binary(text.as_bytes().to_vec())).await.unwrap();
    }

    pub(crate) async fn resizes(&mut self, rows: u16, cols: u16) {
        let message = serde_json::to_string(&ClientMessage::Resize { rows, cols }).unwrap();
        self.socket.send(Message::text(message)).await.unwrap();
    }
}
