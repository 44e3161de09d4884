//! The shares table, and what the store offers of it.

use std::sync::Arc;

use base::ids::{SandboxId, ShareId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use tokio::sync::watch;

use super::{Store, corrupt, to_json, writer};
use crate::{
    Error, Kind, Result,
    shares::{MOST_SHARES, Share},
};

const COLUMNS: &str =
    "id, sandbox, owner, token_sha256, read_only, session, created_at, expires_at";

impl Store {
    /// Keeps a share, and forgets those that have expired when it was made.
    ///
    /// # Errors
    /// [`Kind::QuotaShares`], [`Kind::SandboxNotFound`].
    pub async fn insert_share(&self, share: Share) -> Result<Arc<Share>> {
        let shares = Arc::clone(&self.shares);
        self.writer
            .run(move |connection| {
                let now = share.created_at;
                let transaction = writer::begin(connection)?;
                transaction.execute("DELETE FROM shares WHERE expires_at <= ?1", [now])?;
                insert(&transaction, &share)?;
                writer::commit(transaction)?;
                shares.forget(|share| share.expires_at <= now);
                let share = Arc::new(share);
                shares.add(Arc::clone(&share));
                Ok(share)
            })
            .await
    }

    /// Forgets one share of a sandbox, or all of them, and says how many there were. Whoever looks
    /// through one of them is told at once.
    pub async fn delete_shares(&self, sandbox: &SandboxId, only: Option<ShareId>) -> Result<usize> {
        let (sandbox, shares) = (sandbox.clone(), Arc::clone(&self.shares));
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                let gone = transaction.execute(
                    "DELETE FROM shares WHERE sandbox = ?1 AND (?2 IS NULL OR id = ?2)",
                    params![sandbox.as_str(), only.as_ref().map(ShareId::as_str)],
                )?;
                writer::commit(transaction)?;
                shares.forget(|share| {
                    share.sandbox == sandbox && only.as_ref().is_none_or(|only| share.id == *only)
                });
                Ok(gone)
            })
            .await
    }

    /// The share of that id, expired or not. Memory only.
    pub fn share(&self, id: &str) -> Option<Arc<Share>> {
        self.shares.get(id)
    }

    /// The shares of a sandbox, oldest first, expired or not. Memory only.
    pub fn shares_of(&self, sandbox: &SandboxId) -> Vec<Arc<Share>> {
        self.shares.of_sandbox(sandbox)
    }

    /// Changes whenever shares are forgotten.
    pub(crate) fn share_changes(&self) -> watch::Receiver<u64> {
        self.shares.changes()
    }
}

/// All shares.
pub(super) fn list(connection: &Connection) -> Result<Vec<Share>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM shares"))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn insert(transaction: &Transaction<'_>, new: &Share) -> Result<()> {
    let sandbox = new.sandbox.as_str();
    let exists = transaction
        .prepare_cached("SELECT 1 FROM sandboxes WHERE id = ?1")?
        .query_row([sandbox], |_| Ok(()))
        .optional()?;
    if exists.is_none() {
        let message = format!("there is no sandbox {sandbox}");
        return Err(Error::new(Kind::SandboxNotFound, message));
    }
    let count: u32 = transaction
        .prepare_cached("SELECT count(*) FROM shares WHERE sandbox = ?1")?
        .query_row([sandbox], |row| row.get(0))?;
    if count >= MOST_SHARES {
        let message = format!("a sandbox has at most {MOST_SHARES} shares");
        return Err(Error::new(Kind::QuotaShares, message)
            .hint("revoke one that is not needed: bhatti share SANDBOX --revoke SHARE"));
    }
    transaction
        .prepare_cached(&format!(
            "INSERT INTO shares ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
        ))?
        .execute(params![
            new.id.as_str(),
            sandbox,
            new.owner.as_str(),
            new.token_sha256,
            new.read_only,
            new.session.as_ref().map(to_json).transpose()?,
            new.created_at,
            new.expires_at,
        ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Share> {
    let text = |column| row.get::<_, String>(column);
    let session: Option<String> = row.get("session")?;
    let session = session.map(|session| serde_json::from_str(&session)).transpose();
    Ok(Share {
        id: text("id")?.parse().map_err(|e| corrupt("a share's id", e))?,
        sandbox: text("sandbox")?.parse().map_err(|e| corrupt("a sandbox's id", e))?,
        owner: text("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        token_sha256: text("token_sha256")?,
        read_only: row.get("read_only")?,
        session: session.map_err(|e| corrupt("a share's session", e))?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
    })
}
