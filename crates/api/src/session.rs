//! Sessions: programs that a client can leave and come back to.
//!
//! * `GET /sandboxes/:id/sessions` lists them as [`Session`]s.
//! * `POST /sandboxes/:id/sessions/:session/kill` takes a [`Kill`](crate::Kill).
//! * `GET /sandboxes/:id/ws` is a WebSocket to a terminal. Query: `session=ID` joins that session
//!   and takes it over from a client that it has (`if_detached=true`: unless it has one);
//!   `new=true` opens one; without either the newest one that has no client is joined, else one is
//!   opened. `rows`, `cols`, `user`, `cwd`, `cmd` (repeated), `max_idle_sec` as their names say.
//! * `GET /sandboxes/:id/exec/ws` is a WebSocket to a program on pipes: the first message is an
//!   [`ExecSession`], or `session=ID` joins one that is there.
//!
//! On both, text messages are JSON, [`ServerMessage`] and [`ClientMessage`]; binary messages are
//! bytes of output and input. A text message of the client that is no such JSON is input. The first
//! message of the server is `session` or `error`, the last one `exit`, `detached` or `error`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, SharedPlace, SharedTerminal};

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub session_id: String,
    /// Program and arguments, joined by spaces.
    pub argv: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its program runs.
    pub running: bool,
    /// How its program ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it has a client.
    pub attached: bool,
    /// When it was made, seconds since the Unix epoch.
    pub created_at: i64,
    /// Process id of its program in the sandbox.
    #[serde(default)]
    pub pid: i32,
    /// How often its program was started again.
    #[serde(default)]
    pub restarts: u32,
    /// How many have joined it by links, besides the client.
    #[serde(default)]
    pub viewers: u32,
}

/// First message of a client on `/exec/ws`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSession {
    /// Program and arguments. No shell is involved.
    pub cmd: Vec<String>,
    /// Variables on top of the sandbox's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User name or numeric id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds without a client after which it is killed; 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_idle_sec: Option<u64>,
}

/// What the server says in text messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The client is attached.
    Session {
        /// To this session.
        session_id: String,
        /// Whether it was made for this client.
        #[serde(default)]
        created: bool,
        /// How many of the bytes that follow are old output.
        #[serde(default)]
        replay_bytes: u64,
        /// Of a shared terminal, what else there is to know of it.
        #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
        place: Option<SharedPlace>,
    },
    /// The token of a share is the right one; the sandbox is woken if it has to be.
    Connected(SharedTerminal),
    /// A shared terminal has another size.
    Resized {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Output came too fast for this viewer of a shared terminal.
    Skipped {
        /// How many bytes of it are left out here.
        bytes: u64,
    },
    /// The program has ended; nothing follows.
    Exit {
        /// As in [`ExecResponse::exit_code`](crate::ExecResponse::exit_code).
        exit_code: i32,
    },
    /// The session goes on without this client; nothing follows.
    Detached {
        /// Why, one word such as `taken_over`.
        reason: String,
    },
    /// It could not be done, or not to its end; nothing follows.
    Error(ErrorBody),
    /// A message of a newer version.
    #[serde(other)]
    Unknown,
}

/// What a client says in text messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// The client's terminal has this size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// There is no more input; for programs on pipes.
    Eof,
}
