//! The users table.

use base::ids::{Name, UserId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{corrupt, from_json, networks::network_of, to_json};
use crate::{
    Error, Kind, Result,
    model::{IdlePolicy, User, UserEdit, UserLimits, UserNetwork},
};

/// What every key begins with, so that people and scanners recognise one.
pub(super) const KEY_PREFIX: &str = "bht_";

const COLUMNS: &str =
    "id, name, admin, max_sandboxes, max_cpus, max_memory_mib, max_snapshots, max_volume_mib,
     max_backups, idle, network_policy, created_at, key_sha256";

/// A user and the digest of its key.
pub(super) struct WithKey {
    pub(super) user: User,
    pub(super) key_sha256: String,
}

/// A user that is not stored yet.
pub(super) fn new(name: &str, admin: bool, limits: UserLimits) -> Result<User> {
    let name: Name = name.parse()?;
    if name.as_str().parse::<UserId>().is_ok() {
        // It could be taken for another user wherever a name or an id is given.
        let message =
            format!("{:?} has the shape of a user id and cannot be a name", name.as_str());
        return Err(Error::new(Kind::InvalidName, message));
    }
    let created_at = base::clock::unix_seconds();
    let (idle, network) = (IdlePolicy::default(), UserNetwork::default());
    Ok(User { id: UserId::random(), name, admin, limits, idle, network, created_at })
}

/// Keeps a new user and returns it with its key.
pub(super) fn insert(transaction: &Transaction<'_>, user: User) -> Result<(User, String)> {
    let (key, key_sha256) = new_key();
    let memory = i64::try_from(user.limits.memory_mib_per_sandbox).unwrap_or(i64::MAX);
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO users (id, name, admin, max_sandboxes, max_cpus, max_memory_mib,
             created_at, key_sha256, max_snapshots, idle, network_policy, max_volume_mib, max_backups)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (name) DO NOTHING",
        )?
        .execute(params![
            user.id.as_str(),
            user.name.as_str(),
            user.admin,
            user.limits.sandboxes,
            user.limits.cpus_per_sandbox,
            memory,
            user.created_at,
            key_sha256,
            user.limits.snapshots,
            to_json(&user.idle)?,
            to_json(&user.network)?,
            i64::try_from(user.limits.volume_mib).unwrap_or(i64::MAX),
            user.limits.backups,
        ])?;
    if inserted == 0 {
        let message = format!("a user named {:?} exists", user.name.as_str());
        return Err(Error::new(Kind::UserExists, message));
    }
    Ok((user, key))
}

/// All users with their keys' digests, oldest first.
pub(super) fn list_with_keys(connection: &Connection) -> Result<Vec<WithKey>> {
    let mut rows = Vec::new();
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM users ORDER BY created_at, rowid"))?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        rows.push(WithKey { user: read(row)?, key_sha256: row.get("key_sha256")? });
    }
    Ok(rows)
}

/// All users with the number of sandboxes that each owns, oldest first.
pub(super) fn list_with_counts(connection: &Connection) -> Result<Vec<(User, u32)>> {
    let mut rows = Vec::new();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, (SELECT count(*) FROM sandboxes WHERE owner = users.id) AS sandboxes
         FROM users ORDER BY created_at, rowid"
    ))?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        rows.push((read(row)?, row.get("sandboxes")?));
    }
    Ok(rows)
}

/// The user of that id or name.
pub(super) fn find(connection: &Connection, name_or_id: &str) -> Result<User> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM users WHERE id = ?1 OR name = ?1"))?;
    let mut rows = statement.query([name_or_id])?;
    match rows.next()? {
        Some(row) => read(row),
        None => {
            let shown: String = name_or_id.chars().take(80).collect();
            Err(Error::new(Kind::UserNotFound, format!("there is no user {shown:?}")))
        }
    }
}

/// Removes a user that owns nothing and is not the last admin.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    name_or_id: &str,
) -> Result<(User, Option<u16>)> {
    let user = find(transaction, name_or_id)?;
    let network = network_of(transaction, &user.id)?;
    let name = user.name.as_str();
    let owned: u32 = transaction.query_row(
        "SELECT count(*) FROM sandboxes WHERE owner = ?1",
        [user.id.as_str()],
        |row| row.get(0),
    )?;
    if owned > 0 {
        let message = format!("user {name:?} owns {owned} sandboxes");
        return Err(Error::new(Kind::UserInUse, message).hint("destroy the sandboxes first"));
    }
    for what in ["snapshots", "images"] {
        let kept: u32 = transaction.query_row(
            &format!("SELECT count(*) FROM {what} WHERE owner = ?1"),
            [user.id.as_str()],
            |row| row.get(0),
        )?;
        if kept > 0 {
            let message = format!("user {name:?} owns {kept} {what}");
            return Err(
                Error::new(Kind::UserInUse, message).hint(format!("delete the {what} first"))
            );
        }
    }
    let kept: u32 = transaction.query_row(
        "SELECT count(*) FROM volumes WHERE owner = ?1",
        [user.id.as_str()],
        |row| row.get(0),
    )?;
    if kept > 0 {
        let message = format!("user {name:?} owns {kept} volumes");
        return Err(Error::new(Kind::UserInUse, message).hint("delete the volumes first"));
    }
    let kept: u32 = transaction.query_row(
        "SELECT count(*) FROM volume_backups WHERE owner = ?1",
        [user.id.as_str()],
        |row| row.get(0),
    )?;
    if kept > 0 {
        let message = format!("user {name:?} owns {kept} backups of volumes");
        return Err(Error::new(Kind::UserInUse, message).hint("delete the backups first"));
    }
    transaction.execute("DELETE FROM users WHERE id = ?1", [user.id.as_str()])?;
    if user.admin && !any_admin(transaction)? {
        return Err(Error::new(Kind::UserInUse, format!("{name:?} is the last admin"))
            .hint("create another admin first"));
    }
    Ok((user, network))
}

/// Gives a user a new key.
pub(super) fn rotate(transaction: &Transaction<'_>, name_or_id: &str) -> Result<(User, String)> {
    let user = find(transaction, name_or_id)?;
    let (key, key_sha256) = new_key();
    transaction.execute(
        "UPDATE users SET key_sha256 = ?2 WHERE id = ?1",
        params![user.id.as_str(), key_sha256],
    )?;
    Ok((user, key))
}

/// Changes what a user may have, and returns the user.
pub(super) fn edit(
    transaction: &Transaction<'_>,
    name_or_id: &str,
    edit: UserEdit,
) -> Result<User> {
    let mut user = find(transaction, name_or_id)?;
    let limits = &mut user.limits;
    limits.sandboxes = edit.sandboxes.unwrap_or(limits.sandboxes);
    limits.cpus_per_sandbox = edit.cpus_per_sandbox.unwrap_or(limits.cpus_per_sandbox);
    limits.memory_mib_per_sandbox =
        edit.memory_mib_per_sandbox.unwrap_or(limits.memory_mib_per_sandbox);
    limits.snapshots = edit.snapshots.unwrap_or(limits.snapshots);
    limits.volume_mib = edit.volume_mib.unwrap_or(limits.volume_mib);
    limits.backups = edit.backups.unwrap_or(limits.backups);
    user.idle.warm = edit.idle_warm.unwrap_or(user.idle.warm);
    user.idle.cold = edit.idle_cold.unwrap_or(user.idle.cold);
    let UserNetwork { ceiling, default, caps } = user.network;
    user.network = UserNetwork {
        ceiling: edit.ceiling.unwrap_or(ceiling),
        default: edit.default_egress.unwrap_or(default),
        caps: edit.caps.unwrap_or(caps),
    };
    transaction.execute(
        "UPDATE users SET max_sandboxes = ?2, max_cpus = ?3, max_memory_mib = ?4,
         max_snapshots = ?5, idle = ?6, network_policy = ?7, max_volume_mib = ?8,
         max_backups = ?9 WHERE id = ?1",
        params![
            user.id.as_str(),
            user.limits.sandboxes,
            user.limits.cpus_per_sandbox,
            i64::try_from(user.limits.memory_mib_per_sandbox).unwrap_or(i64::MAX),
            user.limits.snapshots,
            to_json(&user.idle)?,
            to_json(&user.network)?,
            i64::try_from(user.limits.volume_mib).unwrap_or(i64::MAX),
            user.limits.backups,
        ],
    )?;
    Ok(user)
}

/// Whether there is an admin.
pub(super) fn any_admin(connection: &Connection) -> Result<bool> {
    let found = connection
        .query_row("SELECT 1 FROM users WHERE admin = 1 LIMIT 1", [], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// A new key and its digest.
fn new_key() -> (String, String) {
    let key = format!("{KEY_PREFIX}{}", base::random::hex::<32>());
    let digest = base::hash::bytes(key.as_bytes());
    (key, digest)
}

fn read(row: &Row<'_>) -> Result<User> {
    let memory: i64 = row.get("max_memory_mib")?;
    let volumes: i64 = row.get("max_volume_mib")?;
    Ok(User {
        id: row.get::<_, String>("id")?.parse().map_err(|e| corrupt("a user's id", e))?,
        name: row.get::<_, String>("name")?.parse().map_err(|e| corrupt("a user's name", e))?,
        admin: row.get("admin")?,
        limits: UserLimits {
            sandboxes: row.get("max_sandboxes")?,
            cpus_per_sandbox: row.get("max_cpus")?,
            memory_mib_per_sandbox: u64::try_from(memory).unwrap_or(0),
            snapshots: row.get("max_snapshots")?,
            volume_mib: u64::try_from(volumes).unwrap_or(0),
            backups: row.get("max_backups")?,
        },
        idle: from_json(row, "idle")?,
        network: from_json(row, "network_policy")?,
        created_at: row.get("created_at")?,
    })
}
