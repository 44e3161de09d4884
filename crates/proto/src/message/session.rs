//! Sessions: programs on a terminal or a pair of pipes that a client can leave and come back to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Exited;

/// Opens a session or joins one. Answered by [`Response::Attached`](super::Response::Attached),
/// then `Stdout` frames: first what is kept of the output so far, then what comes. The host sends
/// `Stdin` frames, of which an empty one closes the input of a session without a terminal, and
/// [`AttachControl`] as JSON. The last frame is [`Response::Exited`](super::Response::Exited) or
/// [`Response::Detached`](super::Response::Detached). Dropping the stream leaves the session
/// running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which session.
    pub target: Target,
    /// Size of the client's terminal; that of the session stays as it is if absent.
    #[serde(default)]
    pub size: Option<WindowSize>,
}

/// Which session to attach to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Target {
    /// A new one.
    New(NewSession),
    /// The one with this id.
    Session {
        /// Its id.
        id: String,
        /// Whether a client that it has keeps it; else that client is detached.
        #[serde(default)]
        if_detached: bool,
    },
    /// The newest session with a terminal that has no client, the one named `init` excepted; a new
    /// one if there is none.
    NewestOr(NewSession),
}

/// Joins a session beside the client that it has, which keeps it. Answered by
/// [`Response::Joined`](super::Response::Joined), then `Stdout` frames from where that says on, and
/// [`Response::Resized`](super::Response::Resized) whenever the terminal has another size and
/// [`Response::Skipped`](super::Response::Skipped) where one was too slow; the last frame is
/// [`Response::Exited`](super::Response::Exited). The host sends what it sends to an [`Attach`]; one
/// that does not type is not heard, and while the session has a client only that decides the size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Id of the session.
    pub session: String,
    /// What is made under that id if no session of it lives.
    #[serde(default)]
    pub new: Option<NewSession>,
    /// Size of the terminal of the one who joins.
    #[serde(default)]
    pub size: Option<WindowSize>,
    /// Whether the one who joins types.
    #[serde(default)]
    pub input: bool,
    /// Where it was when it left.
    #[serde(default)]
    pub resume: Option<Resume>,
}

/// A place in the output of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// [`SessionInfo::created_at`] of the session; another one with that id is read from the
    /// beginning.
    pub created_at: i64,
    /// Cursor of the first byte that is wanted.
    pub cursor: u64,
}

/// A session to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// Program and arguments; the user's login shell if empty.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Variables on top of the sandbox's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; if absent the image's, and if it names none `/workspace`, or the user's
    /// home if that is missing.
    #[serde(default)]
    pub cwd: Option<String>,
    /// As in [`Exec::user`](super::Exec::user).
    #[serde(default)]
    pub user: Option<String>,
    /// Whether it has a terminal. Without one, both outputs of the program are one.
    pub tty: bool,
    /// Milliseconds without a client after which it is killed, 0 for never; the agent's default if
    /// absent.
    #[serde(default)]
    pub max_idle_ms: Option<u64>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What a host says on the stream of an attachment besides input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum AttachControl {
    /// The client's terminal has another size now.
    Resize(WindowSize),
}

/// Why an attachment ended while its session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetachReason {
    /// Another client has attached.
    TakenOver,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id.
    pub id: String,
    /// Program and arguments; cut if they are long.
    pub argv: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Process id of its program, the last one if none runs.
    pub pid: i32,
    /// How its program ended, if it has; the session is kept for a while so that a client that
    /// comes back learns it.
    #[serde(default)]
    pub exited: Option<Exited>,
    /// Whether it has a client.
    pub attached: bool,
    /// How many have joined it besides.
    #[serde(default)]
    pub joined: u32,
    /// When it was made, seconds since the Unix epoch.
    pub created_at: i64,
    /// How often its program was started again.
    #[serde(default)]
    pub restarts: u32,
}

/// What a sandbox was created to run: a session named [`INIT`](super::INIT) with a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// A line for `/bin/sh -c`.
    pub command: String,
    /// Program and arguments that the image says, in place of the line. They run as the image's user,
    /// as root if it names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// Whether a program that has ended is started again, after a pause that grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    No,
    /// Unless it ended with 0.
    #[default]
    OnFailure,
    /// However it ended.
    Always,
}
