//! Sharing as the daemon asks for it.

use std::{sync::Arc, time::Duration};

use base::{clock, ids::ShareId};
use proto::message::{INIT, SessionInfo};
use tokio::time::timeout;

use super::{MOST_SECONDS, Share, ShareRequest, SharedSession, USUAL_SECONDS, is_digest_of};
use crate::{Error, Kind, Orchestrator, Result, Sandbox};

/// Stands in for the digest of a share that there is none of, so that looking for it takes as long.
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The outcome of sharing.
#[derive(Debug)]
pub struct Shared {
    /// The share.
    pub share: Arc<Share>,
    /// 64 hexadecimal digits, which are not kept and cannot be had again.
    pub token: String,
}

/// Why a share is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its time is up.
    Expired,
    /// Its owner has revoked it, or destroyed the sandbox.
    Revoked,
}

impl Orchestrator {
    /// Makes a link to a terminal of a sandbox. Wakes nothing.
    ///
    /// # Errors
    /// [`Kind::SessionNotFound`] if that session does not run, [`Kind::InvalidRequest`] if it has
    /// no terminal or the share would last too long, [`Kind::QuotaShares`].
    pub async fn share(&self, sandbox: &Sandbox, wanted: ShareRequest) -> Result<Shared> {
        let seconds = wanted.seconds.unwrap_or(USUAL_SECONDS);
        if !(1..=MOST_SECONDS).contains(&seconds) {
            let days = MOST_SECONDS / (24 * 60 * 60);
            let message = format!("a share lasts from 1 second to {days} days");
            return Err(Error::new(Kind::InvalidRequest, message));
        }
        let session = match &wanted.session {
            Some(id) => Some(named(sandbox, id).await?),
            None if wanted.read_only => newest(sandbox).await,
            None => None,
        };
        let (view, token, now) = (sandbox.view(), base::random::hex::<32>(), clock::unix_seconds());
        let share = Share {
            id: ShareId::random(),
            sandbox: view.id,
            owner: view.owner,
            token_sha256: base::hash::bytes(token.as_bytes()),
            read_only: wanted.read_only,
            session,
            created_at: now,
            expires_at: now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)),
        };
        Ok(Shared { share: self.store().insert_share(share).await?, token })
    }

    /// Revokes one share of a sandbox, or all of them, and says how many there were. Whoever looks
    /// through one is put out at once.
    ///
    /// # Errors
    /// [`Kind::ShareNotFound`] if it is one that there is none of.
    pub async fn unshare(&self, sandbox: &Sandbox, only: Option<&str>) -> Result<usize> {
        let view = sandbox.view();
        let unknown = || {
            let shown: String = only.unwrap_or_default().chars().take(80).collect();
            Error::new(Kind::ShareNotFound, format!("{} has no share {shown:?}", view.name))
                .hint(format!("see what there is: bhatti shares {}", view.name))
        };
        let id = only.map(|id| id.parse::<ShareId>().map_err(|_| unknown())).transpose()?;
        let gone = self.store().delete_shares(&view.id, id).await?;
        if only.is_some() && gone == 0 {
            return Err(unknown());
        }
        Ok(gone)
    }

    /// The shares of a sandbox that have not expired, oldest first. Memory only.
    pub fn shares(&self, sandbox: &Sandbox) -> Vec<Arc<Share>> {
        let now = clock::unix_seconds();
        let all = self.store().shares_of(&sandbox.view().id);
        all.into_iter().filter(|share| share.expires_at > now).collect()
    }

    /// What somebody with this id and token may see; of why it is nothing, nothing is said. Memory
    /// only.
    pub fn open_share(&self, id: &str, token: &str) -> Option<(Arc<Share>, Sandbox)> {
        let Some(share) = self.store().share(id) else {
            let _ = is_digest_of(NOBODY, token);
            return None;
        };
        let opens = share.takes(token) && share.expires_at > clock::unix_seconds();
        let sandbox = self.node.registry.by_id(&share.sandbox).filter(|_| opens)?;
        Some((share, sandbox))
    }

    /// Waits until a share is over.
    pub async fn share_over(&self, share: &Share) -> Over {
        let mut changes = self.store().share_changes();
        let mut gone = std::pin::pin!(async {
            while self.store().share(share.id.as_str()).is_some() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        loop {
            let left = share.expires_at.saturating_sub(clock::unix_seconds());
            // The clock may be set back meanwhile, so what it says then counts.
            let Some(left @ 1..) = u64::try_from(left).ok() else { return Over::Expired };
            if timeout(Duration::from_secs(left), &mut gone).await.is_ok() {
                let expired = share.expires_at <= clock::unix_seconds();
                return if expired { Over::Expired } else { Over::Revoked };
            }
        }
    }
}

/// The session of that id, which has to run on a terminal.
async fn named(sandbox: &Sandbox, id: &str) -> Result<SharedSession> {
    let sessions = sandbox.sessions().await?;
    let found = sessions.into_iter().find(|session| session.id == id && session.exited.is_none());
    let name = sandbox.view().name;
    let found = found.ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        Error::new(Kind::SessionNotFound, format!("there is no session {shown} that runs"))
            .hint(format!("see what there is: bhatti ps {name}"))
    })?;
    if !found.tty {
        let message = format!("session {} has no terminal to show", found.id);
        return Err(Error::new(Kind::InvalidRequest, message));
    }
    Ok(shared(found))
}

/// The newest terminal; what the sandbox was created to run only if there is no other.
async fn newest(sandbox: &Sandbox) -> Option<SharedSession> {
    // What cannot be asked has none that we know of.
    let sessions = sandbox.sessions().await.unwrap_or_default();
    let running = sessions.into_iter().filter(|session| session.tty && session.exited.is_none());
    running.max_by_key(|session| (session.id != INIT, session.created_at)).map(shared)
}

fn shared(session: SessionInfo) -> SharedSession {
    SharedSession { id: session.id, created_at: session.created_at }
}
