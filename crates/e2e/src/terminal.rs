//! A session as a client of its WebSocket sees it.

use std::time::Duration;

use api::{ClientMessage, ServerMessage};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::Guest;

/// Whoever has said nothing for so long never will.
const HANGS: Duration = Duration::from_secs(60);

/// One end of a WebSocket that is attached to a session.
#[derive(Debug)]
pub struct Terminal {
    socket: api::client::WebSocket,
    /// What the server said first.
    pub session: String,
    /// Whether the session was made for us.
    pub created: bool,
    /// Old output that is still to come.
    replay: u64,
    /// Output that nobody has asked for yet.
    pub pending: Vec<u8>,
    /// The last message, once it was said.
    pub last: Option<ServerMessage>,
}

impl Terminal {
    /// Opens `/ws` with this query.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(guest: &Guest, query: &str) -> Self {
        Self::at(guest, &format!("/ws?{query}")).await
    }

    async fn at(guest: &Guest, path: &str) -> Self {
        let path = format!("/sandboxes/{}{path}", guest.id);
        let socket = guest.client.websocket(&path).await.expect("a WebSocket is opened");
        Self::greeted(socket).await
    }

    /// Opens `/exec/ws` and says what is to run.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn exec(guest: &Guest, request: &api::ExecSession) -> Self {
        let path = format!("/sandboxes/{}/exec/ws", guest.id);
        let mut socket = guest.client.websocket(&path).await.expect("a WebSocket is opened");
        let request = serde_json::to_string(request).expect("a request is JSON");
        socket.send(Message::text(request)).await.expect("the server reads");
        Self::greeted(socket).await
    }

    async fn greeted(socket: api::client::WebSocket) -> Self {
        let mut terminal = Self {
            socket,
            session: String::new(),
            created: false,
            replay: 0,
            pending: Vec::new(),
            last: None,
        };
        match terminal.message().await {
            Some(ServerMessage::Session { session_id, created, replay_bytes, .. }) => {
                terminal.session = session_id;
                terminal.created = created;
                terminal.replay = replay_bytes;
                terminal
            }
            other => panic!("expected a session, got {other:?}"),
        }
    }

    /// The next text message; bytes that come before it are kept.
    async fn message(&mut self) -> Option<ServerMessage> {
        loop {
            let next = tokio::time::timeout(HANGS, self.socket.next()).await;
            match next.unwrap_or_else(|_| panic!("nothing more is said; got {:?}", self.text())) {
                None | Some(Ok(Message::Close(_)) | Err(_)) => return None,
                Some(Ok(Message::Binary(bytes))) => self.pending.extend_from_slice(&bytes),
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).expect("a message of the server"));
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// Reads one message; false at the end.
    async fn read(&mut self) -> bool {
        let before = self.pending.len();
        while self.pending.len() == before {
            let next = tokio::time::timeout(HANGS, self.socket.next()).await;
            match next.unwrap_or_else(|_| panic!("nothing more is said; got {:?}", self.text())) {
                None | Some(Ok(Message::Close(_)) | Err(_)) => return false,
                Some(Ok(Message::Binary(bytes))) => self.pending.extend_from_slice(&bytes),
                Some(Ok(Message::Text(text))) => {
                    self.last = serde_json::from_str(&text).ok();
                    return false;
                }
                Some(Ok(_)) => {}
            }
        }
        true
    }

    /// What is pending, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    /// All old output.
    ///
    /// # Panics
    /// If the session ends before.
    pub async fn replayed(&mut self) -> Vec<u8> {
        let wanted = usize::try_from(self.replay).expect("it is not that much");
        while self.pending.len() < wanted {
            assert!(self.read().await, "the old output is cut off");
        }
        self.replay = 0;
        self.pending.drain(..wanted).collect()
    }

    /// Waits for `text` and takes everything up to its end.
    ///
    /// # Panics
    /// If the session ends before.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            let found = self.pending.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let taken: Vec<u8> = self.pending.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            assert!(
                self.read().await,
                "ended with {:?} before {text:?}: {:?}",
                self.last,
                self.text()
            );
        }
    }

    /// Reads to the end and says how it was.
    pub async fn end(&mut self) -> Option<ServerMessage> {
        while self.last.is_none() && self.read().await {}
        self.last.clone()
    }

    /// Waits for more output.
    ///
    /// # Panics
    /// If the session ends.
    pub async fn wait(&mut self) {
        assert!(self.read().await, "ended with {:?}", self.last);
    }

    /// Types.
    ///
    /// # Panics
    /// If the server is gone.
    pub async fn type_in(&mut self, bytes: impl Into<Vec<u8>>) {
        let message = Message::binary(bytes.into());
        self.socket.send(message).await.expect("the server reads");
    }

    /// Says something in text.
    ///
    /// # Panics
    /// If the server is gone.
    pub async fn say(&mut self, message: &ClientMessage) {
        let text = serde_json::to_string(message).expect("a message is JSON");
        self.socket.send(Message::text(text)).await.expect("the server reads");
    }

    /// Closes as a well-behaved client does.
    pub async fn close(mut self) {
        // The server may have closed already.
        let _ = self.socket.close(None).await;
    }
}
