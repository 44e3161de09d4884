//! Opening the file and bringing its schema up to date.

use std::{path::Path, time::Duration};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, Kind, Result};

/// Every step from an empty file to the present schema. Append only: a step that was released is
/// never edited, for files that have taken it will not take it again.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE users (
        id             TEXT PRIMARY KEY NOT NULL,
        name           TEXT NOT NULL UNIQUE,
        admin          INTEGER NOT NULL CHECK (admin IN (0, 1)),
        key_sha256     TEXT NOT NULL UNIQUE CHECK (length(key_sha256) = 64),
        max_sandboxes  INTEGER NOT NULL,
        max_cpus       INTEGER NOT NULL,
        max_memory_mib INTEGER NOT NULL,
        created_at     INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE sandboxes (
        id         TEXT PRIMARY KEY NOT NULL,
        owner      TEXT NOT NULL REFERENCES users (id),
        name       TEXT NOT NULL,
        slot       INTEGER NOT NULL UNIQUE CHECK (slot >= 0),
        generation INTEGER NOT NULL CHECK (generation >= 0),
        spec       TEXT NOT NULL CHECK (json_valid(spec)),
        identity   TEXT NOT NULL CHECK (json_valid(identity)),
        state      TEXT NOT NULL CHECK (json_valid(state)),
        created_at INTEGER NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
",
    "
    ALTER TABLE users ADD COLUMN max_snapshots INTEGER NOT NULL DEFAULT 20;
    ALTER TABLE users ADD COLUMN idle TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(idle));
    ALTER TABLE sandboxes ADD COLUMN policy TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(policy));

    CREATE TABLE snapshots (
        id         TEXT PRIMARY KEY NOT NULL,
        owner      TEXT NOT NULL REFERENCES users (id),
        name       TEXT NOT NULL,
        kind       TEXT NOT NULL CHECK (json_valid(kind)),
        source     TEXT NOT NULL,
        spec       TEXT NOT NULL CHECK (json_valid(spec)),
        likeness   TEXT NOT NULL CHECK (json_valid(likeness)),
        state      TEXT NOT NULL CHECK (json_valid(state)),
        created_at INTEGER NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
",
    "
    ALTER TABLE users ADD COLUMN network INTEGER CHECK (network >= 0);
    CREATE UNIQUE INDEX users_by_network ON users (network);
    ALTER TABLE sandboxes ADD COLUMN host INTEGER NOT NULL DEFAULT 0;
    UPDATE users SET network =
        (SELECT count(*) FROM users AS older WHERE older.rowid < users.rowid);
    UPDATE sandboxes SET host = 2 + (SELECT count(*) FROM sandboxes AS older
        WHERE older.owner = sandboxes.owner AND older.rowid < sandboxes.rowid);
    CREATE UNIQUE INDEX sandboxes_by_host ON sandboxes (owner, host);
",
    "
    CREATE TABLE publications (
        id         TEXT PRIMARY KEY NOT NULL,
        sandbox    TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
        owner      TEXT NOT NULL REFERENCES users (id),
        port       INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
        alias      TEXT UNIQUE,
        host_port  INTEGER UNIQUE CHECK (host_port BETWEEN 1 AND 65535),
        guard      TEXT NOT NULL CHECK (json_valid(guard)),
        allow      TEXT NOT NULL CHECK (json_valid(allow)),
        created_at INTEGER NOT NULL,
        UNIQUE (sandbox, port),
        CHECK ((alias IS NULL) <> (host_port IS NULL))
    ) STRICT;
",
    // What nobody had said was kept as if somebody had: the default of those who say nothing may
    // be another one from now on.
    "
    ALTER TABLE users ADD COLUMN network_policy TEXT NOT NULL DEFAULT '{}'
        CHECK (json_valid(network_policy));
    ALTER TABLE users ADD COLUMN last_host INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE numbers (
        what TEXT PRIMARY KEY NOT NULL,
        last INTEGER NOT NULL
    ) STRICT;
    UPDATE sandboxes SET spec = json_remove(spec, '$.network.egress')
        WHERE json_extract(spec, '$.network.egress') = '{\"mode\":\"open\"}';
    UPDATE snapshots SET spec = json_remove(spec, '$.network.egress')
        WHERE json_extract(spec, '$.network.egress') = '{\"mode\":\"open\"}';
    ",
    "
    CREATE TABLE shares (
        id           TEXT PRIMARY KEY NOT NULL,
        sandbox      TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
        owner        TEXT NOT NULL REFERENCES users (id),
        token_sha256 TEXT NOT NULL CHECK (length(token_sha256) = 64),
        read_only    INTEGER NOT NULL CHECK (read_only IN (0, 1)),
        session      TEXT CHECK (session IS NULL OR json_valid(session)),
        created_at   INTEGER NOT NULL,
        expires_at   INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX shares_by_sandbox ON shares (sandbox);
",
    "
    CREATE TABLE images (
        id         TEXT PRIMARY KEY NOT NULL,
        owner      TEXT NOT NULL REFERENCES users (id),
        name       TEXT NOT NULL,
        digest     TEXT NOT NULL CHECK (length(digest) = 64),
        reference  TEXT,
        source     TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
    CREATE TABLE image_shares (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        user  TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        PRIMARY KEY (image, user)
    ) STRICT;
    ",
    "
    ALTER TABLE users ADD COLUMN max_volume_mib INTEGER NOT NULL DEFAULT 102400;
    UPDATE users SET max_volume_mib = 1099511627776 WHERE admin = 1;
    CREATE TABLE volumes (
        id         TEXT PRIMARY KEY NOT NULL,
        owner      TEXT NOT NULL REFERENCES users (id),
        name       TEXT NOT NULL,
        size_mib   INTEGER NOT NULL CHECK (size_mib > 0),
        state      TEXT NOT NULL CHECK (json_valid(state)),
        created_at INTEGER NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
    CREATE TABLE attachments (
        volume    TEXT NOT NULL REFERENCES volumes (id),
        sandbox   TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
        slot      INTEGER NOT NULL CHECK (slot >= 0),
        target    TEXT NOT NULL,
        read_only INTEGER NOT NULL CHECK (read_only IN (0, 1)),
        PRIMARY KEY (sandbox, slot)
    ) STRICT;
    CREATE INDEX attachments_by_volume ON attachments (volume);
",
    "
    CREATE TABLE build_cache (
        owner   TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        key     TEXT NOT NULL CHECK (length(key) = 64),
        digest  TEXT NOT NULL CHECK (length(digest) = 64),
        used_at INTEGER NOT NULL,
        PRIMARY KEY (owner, key)
    ) STRICT;
    ",
    "
    CREATE TABLE volume_backups (
        id          TEXT PRIMARY KEY NOT NULL,
        volume      TEXT NOT NULL,
        owner       TEXT NOT NULL REFERENCES users (id),
        name        TEXT NOT NULL,
        size_mib    INTEGER NOT NULL CHECK (size_mib > 0),
        destination TEXT NOT NULL,
        key         TEXT NOT NULL,
        bytes       INTEGER NOT NULL,
        sha256      TEXT NOT NULL,
        encrypted   INTEGER NOT NULL CHECK (encrypted IN (0, 1)),
        scheduled   INTEGER NOT NULL CHECK (scheduled IN (0, 1)),
        state       TEXT NOT NULL CHECK (json_valid(state)),
        created_at  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE volume_schedules (
        volume     TEXT PRIMARY KEY NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
        owner      TEXT NOT NULL REFERENCES users (id),
        schedule   TEXT NOT NULL CHECK (json_valid(schedule)),
        looked_at  INTEGER NOT NULL,
        failure    TEXT
    ) STRICT;
",
    "
    ALTER TABLE users ADD COLUMN max_backups INTEGER NOT NULL DEFAULT 200;
    UPDATE users SET max_backups = 1048576 WHERE admin = 1;
",
];

/// How long to wait for another process that reads the file, such as a backup.
const BUSY: Duration = Duration::from_secs(10);

/// Opens the file, ready for use.
pub(super) fn open(path: &Path) -> Result<Connection> {
    // Made here rather than by SQLite because it holds the agents' secrets: nobody else may read
    // it, and SQLite gives its journals the permissions of the file itself.
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::internal("the store cannot be opened", error))?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut connection, MIGRATIONS)?;
    Ok(connection)
}

/// Applies the steps that the file has not taken, all or none.
pub(super) fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<()> {
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    // Asked before the lock is taken, so that opening an up-to-date store writes nothing.
    if version(connection)? == known {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let found = version(&transaction)?;
    let taken = usize::try_from(found).ok().filter(|taken| *taken <= steps.len());
    let Some(taken) = taken else {
        return Err(Error::new(
            Kind::Internal,
            format!(
                "the store was written by a newer bhatti (schema {found}, this one knows {known})"
            ),
        )
        .hint("install the newer version again, or restore the data directory from a backup"));
    };
    for step in &steps[taken..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

fn version(connection: &Connection) -> Result<i64> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}
