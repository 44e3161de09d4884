//! Links to a terminal of a sandbox, for whoever has no account.
//!
//! A share lives in the store until it expires, is revoked, or its sandbox is destroyed; copies of
//! the sandbox have none. Whoever has its token sees one session, and types in it unless the share
//! is for reading.

mod facade;
#[cfg(test)]
mod tests;

use base::ids::{SandboxId, ShareId, UserId};
use proto::message::{Join, NewSession, Resume, SessionInfo, WindowSize};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

pub use self::facade::{Over, Shared};

/// Most shares of one sandbox.
pub const MOST_SHARES: u32 = 32;
/// How long a share lasts at most, seconds.
pub const MOST_SECONDS: u64 = 7 * 24 * 60 * 60;
/// How long one lasts if nobody says, seconds.
pub const USUAL_SECONDS: u64 = 60 * 60;

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its id.
    pub id: ShareId,
    /// Whose terminal it shows.
    pub sandbox: SandboxId,
    /// The sandbox's owner.
    pub owner: UserId,
    /// SHA-256 of the token, lower-case hexadecimal. The token is random and long, so there is
    /// nothing that a slow hash would have to make up for.
    pub token_sha256: String,
    /// Whether whoever comes only watches.
    pub read_only: bool,
    /// The session that it shows; one of its own, named like the share, if absent.
    pub session: Option<SharedSession>,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
}

/// A session that was there when it was shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSession {
    /// Its id in the guest.
    pub id: String,
    /// When it was made: after the sandbox was booted anew, another one may have its id.
    pub created_at: i64,
}

/// Asks for a share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareRequest {
    /// How long it is to last, seconds; [`USUAL_SECONDS`] if absent.
    pub seconds: Option<u64>,
    /// Whether whoever comes only watches.
    pub read_only: bool,
    /// Id of the session to show. If absent, one of its own; or of a share for reading the newest
    /// terminal, if there is one.
    pub session: Option<String>,
}

impl Share {
    /// Whether this is its token. How long it takes does not depend on what is right about it.
    fn takes(&self, token: &str) -> bool {
        is_digest_of(&self.token_sha256, token)
    }

    /// Id of the session that it shows.
    pub fn session_id(&self) -> &str {
        self.session.as_ref().map_or(self.id.as_str(), |session| &session.id)
    }

    /// What the guest is asked for when somebody comes.
    pub fn join(&self, size: Option<WindowSize>, resume: Option<Resume>) -> Join {
        let own = || NewSession { tty: true, ..NewSession::default() };
        Join {
            session: self.session_id().to_owned(),
            new: self.session.is_none().then(own),
            size,
            input: !self.read_only,
            resume,
        }
    }

    /// Whether this session is the one that it shows.
    pub fn shows(&self, session: &SessionInfo) -> bool {
        self.session.as_ref().is_none_or(|of| of.created_at == session.created_at)
    }
}

fn is_digest_of(sha256: &str, token: &str) -> bool {
    base::hash::bytes(token.as_bytes()).as_bytes().ct_eq(sha256.as_bytes()).into()
}
