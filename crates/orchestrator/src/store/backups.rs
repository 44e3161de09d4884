//! The tables of backups and of when they are made.

use base::ids::{BackupId, VolumeId};
use rusqlite::{Connection, Row, Transaction, params};

use super::{corrupt, from_json, to_json};
use crate::{
    Error, Kind, Result,
    backups::{Backup, BackupState, Scheduled},
};

/// All backups, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<Backup>> {
    let mut all = Vec::new();
    let mut statement =
        connection.prepare_cached("SELECT * FROM volume_backups ORDER BY created_at, rowid")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// Keeps a new backup, if its owner has less than `limit`.
pub(super) fn begin(transaction: &Transaction<'_>, backup: &Backup, limit: u32) -> Result<()> {
    // Of one that failed there is nothing but the word.
    let counts = |there: &Backup| {
        there.owner == backup.owner && !matches!(there.state, BackupState::Failed { .. })
    };
    let owned = list(transaction)?.into_iter().filter(counts).count();
    if u32::try_from(owned).is_ok_and(|owned| owned < limit) {
        return keep(transaction, backup);
    }
    let message = format!("the limit of {limit} backups is reached");
    Err(Error::new(Kind::QuotaBackups, message).hint(
        "delete one that is not needed: bhatti volume backup-delete --backup-id ID VOLUME; \
         schedules remove old ones with --keep-last and others",
    ))
}

/// Keeps a backup, new or not.
pub(super) fn keep(transaction: &Transaction<'_>, backup: &Backup) -> Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO volume_backups (id, volume, owner, name, size_mib, destination, key,
                 bytes, sha256, encrypted, scheduled, state, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (id) DO UPDATE SET bytes = ?8, sha256 = ?9, state = ?12",
        )?
        .execute(params![
            backup.id.as_str(),
            backup.volume.as_str(),
            backup.owner.as_str(),
            backup.name.as_str(),
            stored(backup.size_mib)?,
            backup.destination,
            backup.key,
            stored(backup.bytes)?,
            backup.sha256,
            backup.encrypted,
            backup.scheduled,
            to_json(&backup.state)?,
            backup.created_at,
        ])?;
    Ok(())
}

/// Forgets a backup.
pub(super) fn delete(transaction: &Transaction<'_>, id: &BackupId) -> Result<()> {
    transaction.execute("DELETE FROM volume_backups WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

/// All schedules.
pub(super) fn schedules(connection: &Connection) -> Result<Vec<Scheduled>> {
    let mut all = Vec::new();
    let mut statement = connection.prepare_cached("SELECT * FROM volume_schedules")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |column: &str| row.get::<_, String>(column);
        all.push(Scheduled {
            volume: text("volume")?.parse().map_err(|e| corrupt("a volume's id", e))?,
            owner: text("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
            plan: from_json(row, "schedule")?,
            looked_at: row.get("looked_at")?,
            failure: row.get("failure")?,
        });
    }
    Ok(all)
}

/// Keeps a schedule instead of the one before.
pub(super) fn keep_schedule(transaction: &Transaction<'_>, schedule: &Scheduled) -> Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO volume_schedules (volume, owner, schedule, looked_at, failure)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            schedule.volume.as_str(),
            schedule.owner.as_str(),
            to_json(&schedule.plan)?,
            schedule.looked_at,
            schedule.failure,
        ])?;
    Ok(())
}

/// Notes how a run ended.
pub(super) fn note_run(
    transaction: &Transaction<'_>,
    volume: &VolumeId,
    at: i64,
    failure: Option<&str>,
) -> Result<()> {
    transaction.execute(
        "UPDATE volume_schedules SET looked_at = max(looked_at, ?2), failure = ?3
         WHERE volume = ?1",
        params![volume.as_str(), at, failure],
    )?;
    Ok(())
}

/// Forgets a schedule.
pub(super) fn delete_schedule(transaction: &Transaction<'_>, volume: &VolumeId) -> Result<()> {
    transaction.execute("DELETE FROM volume_schedules WHERE volume = ?1", [volume.as_str()])?;
    Ok(())
}

fn stored(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|error| Error::internal("a size is out of range", error))
}

fn read(row: &Row<'_>) -> Result<Backup> {
    let text = |column: &str| row.get::<_, String>(column);
    let number = |column: &str| {
        row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or_default())
    };
    Ok(Backup {
        id: text("id")?.parse().map_err(|e| corrupt("a backup's id", e))?,
        volume: text("volume")?.parse().map_err(|e| corrupt("a volume's id", e))?,
        owner: text("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        name: text("name")?.parse().map_err(|e| corrupt("a volume's name", e))?,
        size_mib: number("size_mib")?,
        destination: text("destination")?,
        key: text("key")?,
        bytes: number("bytes")?,
        sha256: text("sha256")?,
        encrypted: row.get("encrypted")?,
        scheduled: row.get("scheduled")?,
        state: from_json(row, "state")?,
        created_at: row.get("created_at")?,
    })
}
