//! The publications table, and what the store offers of it.

use std::sync::Arc;

use base::ids::SandboxId;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use tokio::sync::watch;

use super::{Store, corrupt, from_json, to_json, writer};
use crate::{
    Error, Kind, Result,
    publications::{MOST_PUBLICATIONS, Place, Publication, Published},
};

const COLUMNS: &str = "id, sandbox, owner, port, alias, host_port, guard, allow, created_at";

impl Store {
    /// Keeps a publication, or finds the one that its port has already.
    ///
    /// # Errors
    /// [`Kind::AliasTaken`], [`Kind::HostPortTaken`], [`Kind::QuotaPublications`],
    /// [`Kind::SandboxNotFound`].
    pub async fn insert_publication(&self, publication: Publication) -> Result<Published> {
        let published = Arc::clone(&self.published);
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                if let Some(found) = find(&transaction, &publication)? {
                    let publication = Arc::new(found);
                    return Ok(Published { publication, existing: true, secret: None });
                }
                insert(&transaction, &publication)?;
                writer::commit(transaction)?;
                let publication = Arc::new(publication);
                published.add(Arc::clone(&publication));
                Ok(Published { publication, existing: false, secret: None })
            })
            .await
    }

    /// Forgets what is published of a port, and says whether there was something.
    pub async fn delete_publication(&self, sandbox: &SandboxId, port: u16) -> Result<bool> {
        let (sandbox, published) = (sandbox.clone(), Arc::clone(&self.published));
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                let gone = transaction.execute(
                    "DELETE FROM publications WHERE sandbox = ?1 AND port = ?2",
                    params![sandbox.as_str(), port],
                )?;
                writer::commit(transaction)?;
                published.forget_port(&sandbox, port);
                Ok(gone > 0)
            })
            .await
    }

    /// What is published below an alias. Memory only.
    pub fn publication(&self, alias: &str) -> Option<Arc<Publication>> {
        self.published.by_alias(alias)
    }

    /// What is published of a sandbox, lowest port first. Memory only.
    pub fn publications_of(&self, sandbox: &SandboxId) -> Vec<Arc<Publication>> {
        self.published.of_sandbox(sandbox)
    }

    /// What is published on ports of the host. Memory only.
    pub fn publications_on_host_ports(&self) -> Vec<Arc<Publication>> {
        self.published.on_host_ports()
    }

    /// Changes whenever a publication is made or ends.
    pub fn publication_changes(&self) -> watch::Receiver<u64> {
        self.published.changes()
    }
}

/// All publications, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<Publication>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM publications ORDER BY created_at, rowid"
    ))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// What the same port has already.
fn find(transaction: &Transaction<'_>, like: &Publication) -> Result<Option<Publication>> {
    let mut statement = transaction.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM publications WHERE sandbox = ?1 AND port = ?2"
    ))?;
    let mut rows = statement.query(params![like.sandbox.as_str(), like.port])?;
    rows.next()?.map(read).transpose()
}

fn insert(transaction: &Transaction<'_>, new: &Publication) -> Result<()> {
    let exists = |sql: &str, value: &dyn rusqlite::ToSql| -> Result<bool> {
        Ok(transaction.prepare_cached(sql)?.query_row([value], |_| Ok(())).optional()?.is_some())
    };
    let sandbox = new.sandbox.as_str();
    if !exists("SELECT 1 FROM sandboxes WHERE id = ?1", &sandbox)? {
        let message = format!("there is no sandbox {sandbox}");
        return Err(Error::new(Kind::SandboxNotFound, message));
    }
    let count: u32 = transaction
        .prepare_cached("SELECT count(*) FROM publications WHERE sandbox = ?1")?
        .query_row([sandbox], |row| row.get(0))?;
    if count >= MOST_PUBLICATIONS {
        let message = format!("a sandbox has at most {MOST_PUBLICATIONS} published ports");
        return Err(Error::new(Kind::QuotaPublications, message)
            .hint("withdraw one that is not needed: bhatti unpublish SANDBOX -p PORT"));
    }
    let (alias, host_port) = match &new.place {
        Place::Alias(alias) => (Some(alias.as_str()), None),
        Place::HostPort(port) => (None, Some(*port)),
    };
    if exists("SELECT 1 FROM publications WHERE alias = ?1", &alias)? {
        let message = format!("the alias {:?} is taken", alias.unwrap_or_default());
        return Err(Error::new(Kind::AliasTaken, message)
            .hint("choose another with --alias, or leave it out to have one made up"));
    }
    if exists("SELECT 1 FROM publications WHERE host_port = ?1", &host_port)? {
        let message = format!("port {} of the host is taken", host_port.unwrap_or_default());
        return Err(Error::new(Kind::HostPortTaken, message).hint("choose another with --tcp"));
    }
    transaction
        .prepare_cached(&format!(
            "INSERT INTO publications ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        ))?
        .execute(params![
            new.id.as_str(),
            sandbox,
            new.owner.as_str(),
            new.port,
            alias,
            host_port,
            to_json(&new.guard)?,
            to_json(&new.allow)?,
            new.created_at,
        ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Publication> {
    let text = |column| row.get::<_, String>(column);
    let alias: Option<String> = row.get("alias")?;
    let host_port: Option<u16> = row.get("host_port")?;
    let place = match (alias, host_port) {
        (Some(alias), _) => Place::Alias(alias.parse().map_err(|e| corrupt("an alias", e))?),
        (None, Some(port)) => Place::HostPort(port),
        (None, None) => return Err(corrupt("a publication", "it has no place")),
    };
    Ok(Publication {
        id: text("id")?.parse().map_err(|e| corrupt("a publication's id", e))?,
        sandbox: text("sandbox")?.parse().map_err(|e| corrupt("a sandbox's id", e))?,
        owner: text("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        port: row.get("port")?,
        place,
        guard: from_json(row, "guard")?,
        allow: from_json(row, "allow")?,
        created_at: row.get("created_at")?,
    })
}
