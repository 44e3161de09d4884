//! The sandboxes table.

use base::ids::SandboxId;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::{Serialize, de::DeserializeOwned};

use super::corrupt;
use crate::{
    Error, Kind, Result,
    record::{Record, State},
};

/// All sandboxes, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT id, owner, name, slot, generation, spec, identity, state, created_at
         FROM sandboxes ORDER BY created_at, rowid",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records.push(read(row)?);
    }
    Ok(records)
}

/// Keeps a new sandbox, in a slot of its own.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    mut record: Record,
    limit: u32,
) -> Result<Record> {
    check_owner_and_name(transaction, &record)?;
    let owned: u32 = transaction
        .prepare_cached("SELECT count(*) FROM sandboxes WHERE owner = ?1")?
        .query_row([record.owner.as_str()], |row| row.get(0))?;
    if owned >= limit {
        let message = format!("the limit of {limit} sandboxes is reached");
        return Err(Error::new(Kind::QuotaSandboxes, message)
            .hint("destroy a sandbox that is not needed; stopped ones count too"));
    }
    record.slot = free_slot(transaction)?;
    transaction
        .prepare_cached(
            "INSERT INTO sandboxes
             (id, owner, name, slot, generation, spec, identity, state, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            record.id.as_str(),
            record.owner.as_str(),
            record.name.as_str(),
            record.slot,
            stored_generation(record.generation)?,
            to_json(&record.spec)?,
            to_json(&record.identity)?,
            to_json(&record.state)?,
            record.created_at,
        ])?;
    Ok(record)
}

/// Keeps a new state over an older one.
pub(super) fn update(
    transaction: &Transaction<'_>,
    id: &SandboxId,
    generation: u64,
    state: &State,
) -> Result<()> {
    let updated = transaction
        .prepare_cached(
            "UPDATE sandboxes SET generation = ?2, state = ?3 WHERE id = ?1 AND generation < ?2",
        )?
        .execute(params![id.as_str(), stored_generation(generation)?, to_json(state)?])?;
    if updated == 1 {
        return Ok(());
    }
    let stored: Option<i64> = transaction
        .query_row("SELECT generation FROM sandboxes WHERE id = ?1", [id.as_str()], |r| r.get(0))
        .optional()?;
    Err(match stored {
        None => Error::new(Kind::SandboxNotFound, format!("there is no sandbox {id}")),
        Some(stored) => Error::new(
            Kind::Internal,
            format!("generation {generation} of sandbox {id} is not newer than {stored}"),
        ),
    })
}

/// Forgets a sandbox.
pub(super) fn delete(transaction: &Transaction<'_>, id: &SandboxId) -> Result<()> {
    transaction.execute("DELETE FROM sandboxes WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

/// The name is looked at before the quota, so that a repeated create hears that its sandbox exists
/// and not that there is no room for it.
fn check_owner_and_name(transaction: &Transaction<'_>, record: &Record) -> Result<()> {
    let owner_exists = transaction
        .prepare_cached("SELECT 1 FROM users WHERE id = ?1")?
        .exists([record.owner.as_str()])?;
    if !owner_exists {
        return Err(Error::new(Kind::UserNotFound, format!("there is no user {}", record.owner)));
    }
    let name_taken = transaction
        .prepare_cached("SELECT 1 FROM sandboxes WHERE owner = ?1 AND name = ?2")?
        .exists([record.owner.as_str(), record.name.as_str()])?;
    if name_taken {
        let message = format!("a sandbox named {:?} exists", record.name.as_str());
        return Err(Error::new(Kind::NameTaken, message));
    }
    Ok(())
}

/// The smallest number that is not some sandbox's slot.
fn free_slot(transaction: &Transaction<'_>) -> Result<u32> {
    let slot = transaction
        .prepare_cached(
            "SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM sandboxes WHERE slot = 0) THEN 0
             ELSE (SELECT min(slot) + 1 FROM sandboxes AS taken WHERE NOT EXISTS
                   (SELECT 1 FROM sandboxes WHERE slot = taken.slot + 1)) END",
        )?
        .query_row([], |row| row.get(0))?;
    Ok(slot)
}

fn stored_generation(generation: u64) -> Result<i64> {
    i64::try_from(generation).map_err(|e| Error::internal("a generation is out of range", e))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("a value has no JSON form", e))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| corrupt(&format!("a sandbox's {column}"), e))
}

fn read(row: &Row<'_>) -> Result<Record> {
    let generation: i64 = row.get("generation")?;
    Ok(Record {
        id: row.get::<_, String>("id")?.parse().map_err(|e| corrupt("a sandbox's id", e))?,
        owner: row.get::<_, String>("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        name: row.get::<_, String>("name")?.parse().map_err(|e| corrupt("a sandbox's name", e))?,
        spec: from_json(row, "spec")?,
        identity: from_json(row, "identity")?,
        slot: row.get("slot")?,
        generation: u64::try_from(generation).unwrap_or(0),
        state: from_json(row, "state")?,
        created_at: row.get("created_at")?,
    })
}
