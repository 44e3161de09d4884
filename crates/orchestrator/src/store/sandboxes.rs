//! The sandboxes table.

use std::sync::Arc;

use super::{corrupt, from_json, networks::Networks, to_json, volumes};
use crate::{
    Error, Kind, Result,
    record::{Address, Record, State},
};
use base::ids::{Name, SandboxId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

/// All sandboxes, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT sandboxes.id, owner, sandboxes.name, slot, network, host, generation, spec, policy,
         identity, state, sandboxes.created_at
         FROM sandboxes JOIN users ON users.id = owner
         ORDER BY sandboxes.created_at, sandboxes.rowid",
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
    (networks, taken): (&Networks, &[u16]),
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
    record.address = networks.free_address(transaction, &record.owner, taken)?;
    transaction
        .prepare_cached(
            "INSERT INTO sandboxes
             (id, owner, name, slot, generation, spec, identity, state, created_at, policy, host)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            record.id.as_str(),
            record.owner.as_str(),
            record.name.as_str(),
            record.slot,
            stored_generation(record.generation)?,
            to_json(&*record.spec)?,
            to_json(&record.identity)?,
            to_json(&record.state)?,
            record.created_at,
            to_json(&record.policy)?,
            record.address.host,
        ])?;
    volumes::attach(transaction, &record)?;
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
    Err(not_updated(transaction, id, generation)?)
}

/// Keeps what an owner may change.
pub(super) fn edit(transaction: &Transaction<'_>, record: &Record) -> Result<()> {
    let name_taken = transaction
        .prepare_cached("SELECT 1 FROM sandboxes WHERE owner = ?1 AND name = ?2 AND id <> ?3")?
        .exists([record.owner.as_str(), record.name.as_str(), record.id.as_str()])?;
    if name_taken {
        return Err(taken(&record.name));
    }
    let updated = transaction
        .prepare_cached(
            "UPDATE sandboxes SET generation = ?2, name = ?3, spec = ?4, policy = ?5
             WHERE id = ?1 AND generation < ?2",
        )?
        .execute(params![
            record.id.as_str(),
            stored_generation(record.generation)?,
            record.name.as_str(),
            to_json(&*record.spec)?,
            to_json(&record.policy)?,
        ])?;
    if updated == 1 {
        return Ok(());
    }
    Err(not_updated(transaction, &record.id, record.generation)?)
}

fn not_updated(transaction: &Transaction<'_>, id: &SandboxId, generation: u64) -> Result<Error> {
    let stored: Option<i64> = transaction
        .query_row("SELECT generation FROM sandboxes WHERE id = ?1", [id.as_str()], |r| r.get(0))
        .optional()?;
    Ok(match stored {
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
        return Err(taken(&record.name));
    }
    Ok(())
}

fn taken(name: &Name) -> Error {
    let message = format!("a sandbox named {:?} exists", name.as_str());
    Error::new(Kind::NameTaken, message).hint("choose another name")
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

fn read(row: &Row<'_>) -> Result<Record> {
    let generation: i64 = row.get("generation")?;
    Ok(Record {
        id: row.get::<_, String>("id")?.parse().map_err(|e| corrupt("a sandbox's id", e))?,
        owner: row.get::<_, String>("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        name: row.get::<_, String>("name")?.parse().map_err(|e| corrupt("a sandbox's name", e))?,
        spec: Arc::new(from_json(row, "spec")?),
        policy: from_json(row, "policy")?,
        identity: from_json(row, "identity")?,
        slot: row.get("slot")?,
        address: Address {
            network: row.get::<_, Option<u16>>("network")?.unwrap_or_default(),
            host: row.get("host")?,
        },
        generation: u64::try_from(generation).unwrap_or(0),
        state: from_json(row, "state")?,
        created_at: row.get("created_at")?,
    })
}
