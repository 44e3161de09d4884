//! The tables of volumes and of who has them.

use base::ids::{UserId, VolumeId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{corrupt, from_json, to_json};
use crate::{
    Error, Kind, Result,
    model::{VolumeState, VolumeUse},
    record::{Attachment, Record, VolumeRecord},
};

const COLUMNS: &str = "id, owner, name, size_mib, state, created_at";

/// All volumes, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<VolumeRecord>> {
    let mut records = Vec::new();
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM volumes ORDER BY created_at, rowid"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records.push(read(row)?);
    }
    Ok(records)
}

/// One volume.
pub(super) fn get(connection: &Connection, id: &VolumeId) -> Result<VolumeRecord> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM volumes WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(read).unwrap_or_else(|| Err(missing(id)))
}

/// Who has volumes, in the order of sandboxes and slots.
pub(super) fn attachments(connection: &Connection) -> Result<Vec<Attachment>> {
    let mut all = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT volume, sandbox, sandboxes.name, attachments.slot, target, read_only
         FROM attachments JOIN sandboxes ON sandboxes.id = sandbox
         ORDER BY sandboxes.created_at, sandboxes.rowid, attachments.slot",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        all.push(read_attachment(row)?);
    }
    Ok(all)
}

/// Keeps a new volume, if with it its owner has at most `limit` MiB.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    record: &VolumeRecord,
    limit: u64,
) -> Result<()> {
    let name = record.name.as_str();
    let exists = transaction
        .prepare_cached("SELECT 1 FROM volumes WHERE owner = ?1 AND name = ?2")?
        .exists([record.owner.as_str(), name])?;
    if exists {
        return Err(Error::new(Kind::VolumeExists, format!("a volume named {name:?} exists"))
            .hint(format!(
                "choose another name, or delete it first: bhatti volume delete {name}"
            )));
    }
    check_quota(transaction, &record.owner, record.size_mib, limit)?;
    transaction
        .prepare_cached(&format!(
            "INSERT INTO volumes ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        ))?
        .execute(params![
            record.id.as_str(),
            record.owner.as_str(),
            name,
            stored_size(record.size_mib)?,
            to_json(&record.state)?,
            record.created_at,
        ])?;
    Ok(())
}

/// Keeps where a volume is in its life. One that sandboxes have cannot be removed.
pub(super) fn update(
    transaction: &Transaction<'_>,
    id: &VolumeId,
    state: VolumeState,
) -> Result<()> {
    let record = get(transaction, id)?;
    if state == VolumeState::Removing
        && let Some(user) = attached_to(transaction, id)?.first()
    {
        return Err(in_use(&record.name, user)
            .hint(format!("destroy {0} first: bhatti destroy {0}", user.name)));
    }
    transaction.execute(
        "UPDATE volumes SET state = ?2 WHERE id = ?1",
        params![id.as_str(), to_json(&state)?],
    )?;
    Ok(())
}

/// Keeps another size, if with it the owner has at most `limit` MiB. `by` is the sandbox that has the
/// volume and makes it larger itself; nobody else may have it.
pub(super) fn resize(
    transaction: &Transaction<'_>,
    id: &VolumeId,
    size_mib: u64,
    limit: u64,
    by: Option<&Attachment>,
) -> Result<()> {
    let record = get(transaction, id)?;
    let others = attached_to(transaction, id)?;
    let other = others.iter().find(|user| by.is_none_or(|by| by.sandbox != user.sandbox));
    if let Some(user) = other {
        return Err(in_use(&record.name, user).hint("it can be resized when nobody has it"));
    }
    let more = size_mib.saturating_sub(record.size_mib);
    if more > 0 {
        check_quota(transaction, &record.owner, more, limit)?;
    }
    transaction.execute(
        "UPDATE volumes SET size_mib = ?2 WHERE id = ?1",
        params![id.as_str(), stored_size(size_mib)?],
    )?;
    Ok(())
}

/// Forgets a volume.
pub(super) fn delete(transaction: &Transaction<'_>, id: &VolumeId) -> Result<()> {
    transaction.execute("DELETE FROM volumes WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

/// Gives a new sandbox the volumes that it wants, if it may have them: each has one writer or any
/// number of readers.
pub(super) fn attach(transaction: &Transaction<'_>, sandbox: &Record) -> Result<()> {
    for (slot, wanted) in (0_u32..).zip(&sandbox.spec.volumes) {
        if wanted.copied_at.is_none() {
            attach_one(transaction, sandbox, slot, wanted)?;
        }
    }
    Ok(())
}

fn attach_one(
    transaction: &Transaction<'_>,
    sandbox: &Record,
    slot: u32,
    wanted: &VolumeUse,
) -> Result<()> {
    let volume = get(transaction, &wanted.volume)?;
    if volume.owner != sandbox.owner || volume.state != VolumeState::Ready {
        return Err(missing(&volume.id));
    }
    let users = attached_to(transaction, &volume.id)?;
    if let Some(user) = users.iter().find(|user| !(user.read_only && wanted.read_only)) {
        let hint = match user.read_only {
            true => format!(
                "read it, too, with {0}:{1}:ro, or clone it: bhatti volume clone {0} NEW",
                volume.name, wanted.target
            ),
            false => format!(
                "one sandbox may write to it or any number may read it; clone it: bhatti volume \
                 clone {} NEW",
                volume.name
            ),
        };
        return Err(in_use(&volume.name, user).hint(hint));
    }
    transaction
        .prepare_cached(
            "INSERT INTO attachments (volume, sandbox, slot, target, read_only)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            volume.id.as_str(),
            sandbox.id.as_str(),
            slot,
            wanted.target,
            wanted.read_only,
        ])?;
    Ok(())
}

fn attached_to(connection: &Connection, id: &VolumeId) -> Result<Vec<Attachment>> {
    let mut all = attachments(connection)?;
    all.retain(|attachment| attachment.volume == *id);
    Ok(all)
}

fn in_use(volume: &base::ids::Name, user: &Attachment) -> Error {
    let does = if user.read_only { "reads" } else { "writes to" };
    let message = format!("volume {volume} is in use: sandbox {} {does} it", user.name);
    Error::new(Kind::VolumeInUse, message)
}

fn check_quota(
    transaction: &Transaction<'_>,
    owner: &UserId,
    more_mib: u64,
    limit: u64,
) -> Result<()> {
    let owned: Option<i64> = transaction
        .prepare_cached("SELECT sum(size_mib) FROM volumes WHERE owner = ?1")?
        .query_row([owner.as_str()], |row| row.get(0))
        .optional()?
        .flatten();
    let owned = u64::try_from(owned.unwrap_or(0)).unwrap_or(0);
    if owned.saturating_add(more_mib) > limit {
        let message = format!(
            "{more_mib} MB more are more than you may have: your volumes have {owned} of {limit} MB"
        );
        return Err(Error::new(Kind::QuotaVolumes, message)
            .hint("delete a volume that is not needed: bhatti volume delete NAME"));
    }
    Ok(())
}

fn missing(id: &VolumeId) -> Error {
    Error::new(Kind::VolumeNotFound, format!("there is no volume {id}"))
}

fn stored_size(mib: u64) -> Result<i64> {
    i64::try_from(mib).map_err(|error| Error::internal("a size is out of range", error))
}

fn read(row: &Row<'_>) -> Result<VolumeRecord> {
    let size_mib: i64 = row.get("size_mib")?;
    Ok(VolumeRecord {
        id: row.get::<_, String>("id")?.parse().map_err(|e| corrupt("a volume's id", e))?,
        owner: row.get::<_, String>("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        name: row.get::<_, String>("name")?.parse().map_err(|e| corrupt("a volume's name", e))?,
        size_mib: u64::try_from(size_mib).unwrap_or(0),
        state: from_json(row, "state")?,
        created_at: row.get("created_at")?,
    })
}

fn read_attachment(row: &Row<'_>) -> Result<Attachment> {
    let text = |column: &str| row.get::<_, String>(column);
    Ok(Attachment {
        volume: text("volume")?.parse().map_err(|e| corrupt("a volume's id", e))?,
        sandbox: text("sandbox")?.parse().map_err(|e| corrupt("a sandbox's id", e))?,
        name: text("name")?.parse().map_err(|e| corrupt("a sandbox's name", e))?,
        slot: row.get("slot")?,
        target: text("target")?,
        read_only: row.get("read_only")?,
    })
}
