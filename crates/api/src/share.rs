//! Links to a terminal of a sandbox, for whoever has no account.
//!
//! * `POST /sandboxes/:id/shell-token` takes a [`Share`] or nothing and answers with a
//!   [`ShareLink`], whose token and URL are told only then.
//! * `GET /sandboxes/:id/shell-token` lists them as [`ShareLink`]s; `GET /shell-token` does so for
//!   all of the caller's sandboxes.
//! * `DELETE /sandboxes/:id/shell-token` revokes all, `DELETE /sandboxes/:id/shell-token/:share` one;
//!   204. Whoever looks through one is put out at once.
//!
//! Where links lead no key is needed, or looked at:
//!
//! * `GET /_shell/:share` is a page with a terminal, the same for every share and for none.
//! * `GET /_shell/:share/ws` is a WebSocket. The first message of the client, within 10 s, is
//!   [`ShareHello`]. The server answers `connected`, wakes the sandbox, says `session`, and from then
//!   on it is as on `/sandboxes/:id/ws`; see [`ServerMessage`](crate::ServerMessage). Before
//!   `session` nothing else is heard, and of a share for reading nothing at all.

use serde::{Deserialize, Serialize};

/// Asks for a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// How long it lasts, seconds, at most seven days; an hour if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_sec: Option<u64>,
    /// Whether whoever comes only watches.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The session that it shows. If absent one of its own, named like the share; or of a share for
    /// reading the newest terminal, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareLink {
    /// `shr_` and twelve hexadecimal digits.
    pub id: String,
    /// The sandbox.
    pub sandbox_id: String,
    /// The sandbox's name.
    #[serde(default)]
    pub sandbox: String,
    /// What opens it, 64 hexadecimal digits; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The link; with the token behind the `#` only in the answer that made it. Absent if the daemon
    /// listens on no address that browsers reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether whoever comes only watches.
    pub read_only: bool,
    /// The session that it shows.
    pub session: String,
    /// How many look through it now.
    #[serde(default)]
    pub viewers: u32,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
}

/// First message of a client on `/_shell/:share/ws`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "auth")]
pub struct ShareHello {
    /// What stands behind the `#` of the link.
    pub token: String,
    /// Lines of the client's terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Columns of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Where it was, if it has been here before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ShareResume>,
}

/// Up to where a client has a terminal's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareResume {
    /// [`SharedPlace::created_at`].
    pub created_at: i64,
    /// [`SharedPlace::cursor`] and all bytes since, those that were skipped included.
    pub cursor: u64,
}

/// What the server says of a share to whoever has its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTerminal {
    /// The sandbox's name.
    pub sandbox: String,
    /// Whether it has to be woken: `asleep`, or else `awake`.
    pub status: String,
    /// Whether the client only watches.
    pub read_only: bool,
    /// In how many seconds the share ends.
    pub expires_in_sec: u64,
}

/// What is to know of a session that is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPlace {
    /// When it was made, seconds since the Unix epoch.
    pub created_at: i64,
    /// Cursor of the first byte that follows; what is before it, the client has or cannot get.
    pub cursor: u64,
    /// Lines of the terminal.
    pub rows: u16,
    /// Columns of it.
    pub cols: u16,
}
