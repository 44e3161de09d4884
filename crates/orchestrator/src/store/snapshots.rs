//! The snapshots table.

use std::sync::Arc;

use base::ids::SnapshotId;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{corrupt, from_json, to_json};
use crate::{
    Error, Kind, Result,
    record::{SnapshotRecord, SnapshotState},
};

/// All snapshots, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<SnapshotRecord>> {
    let mut records = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT id, owner, name, kind, source, spec, likeness, state, created_at
         FROM snapshots ORDER BY created_at, rowid",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records.push(read(row)?);
    }
    Ok(records)
}

/// Keeps a new snapshot.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    record: &SnapshotRecord,
    limit: u32,
) -> Result<()> {
    let name = &record.name;
    let state: Option<String> = transaction
        .prepare_cached("SELECT state FROM snapshots WHERE owner = ?1 AND name = ?2")?
        .query_row([record.owner.as_str(), name.as_str()], |row| row.get(0))
        .optional()?;
    if let Some(state) = state {
        let message = match state == to_json(&SnapshotState::Ready)? {
            true => format!("a snapshot named {:?} exists", name.as_str()),
            false => format!("a snapshot named {:?} is being made or removed", name.as_str()),
        };
        return Err(Error::new(Kind::SnapshotExists, message).hint(format!(
            "choose another name, or delete it first: bhatti snapshot delete {name}"
        )));
    }
    let owned: u32 = transaction
        .prepare_cached("SELECT count(*) FROM snapshots WHERE owner = ?1")?
        .query_row([record.owner.as_str()], |row| row.get(0))?;
    if owned >= limit {
        let message = format!("the limit of {limit} snapshots is reached");
        return Err(Error::new(Kind::QuotaSnapshots, message)
            .hint("delete one that is not needed: bhatti snapshot delete NAME"));
    }
    transaction
        .prepare_cached(
            "INSERT INTO snapshots
             (id, owner, name, kind, source, spec, likeness, state, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            record.id.as_str(),
            record.owner.as_str(),
            record.name.as_str(),
            to_json(&record.kind)?,
            record.source.as_str(),
            to_json(&*record.spec)?,
            to_json(&record.likeness)?,
            to_json(&record.state)?,
            record.created_at,
        ])?;
    Ok(())
}

/// Keeps where a snapshot is in its life.
pub(super) fn update(
    transaction: &Transaction<'_>,
    id: &SnapshotId,
    state: SnapshotState,
) -> Result<()> {
    let updated = transaction.execute(
        "UPDATE snapshots SET state = ?2 WHERE id = ?1",
        params![id.as_str(), to_json(&state)?],
    )?;
    if updated == 1 {
        return Ok(());
    }
    Err(Error::new(Kind::SnapshotNotFound, format!("there is no snapshot {id}")))
}

/// Forgets a snapshot.
pub(super) fn delete(transaction: &Transaction<'_>, id: &SnapshotId) -> Result<()> {
    transaction.execute("DELETE FROM snapshots WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<SnapshotRecord> {
    Ok(SnapshotRecord {
        id: row.get::<_, String>("id")?.parse().map_err(|e| corrupt("a snapshot's id", e))?,
        owner: row.get::<_, String>("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        name: row.get::<_, String>("name")?.parse().map_err(|e| corrupt("a name", e))?,
        kind: from_json(row, "kind")?,
        source: row.get::<_, String>("source")?.parse().map_err(|e| corrupt("a name", e))?,
        spec: Arc::new(from_json(row, "spec")?),
        likeness: from_json(row, "likeness")?,
        state: from_json(row, "state")?,
        created_at: row.get("created_at")?,
    })
}
