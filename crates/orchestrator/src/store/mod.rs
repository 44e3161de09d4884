//! What the node remembers: users, and sandboxes well enough to be taken up again.
//!
//! ```text
//!  async callers ──bounded queue──► writer thread ──► SQLite (WAL)
//!        ▲                              │ after each commit that changes users
//!        └── user_by_key ◄── Directory ◄┘
//! ```
//!
//! One thread owns the only connection, so what is checked in a transaction cannot change before
//! its commit, and a caller that goes away leaves no half-done work. Keys are looked up in memory.
//!
//! Invariant: nothing else writes to the file. The daemon holds a lock on the data directory
//! before it opens the store.

mod backups;
mod builds;
mod directory;
mod images;
mod networks;
mod publications;
mod published;
mod sandboxes;
mod schema;
mod shared;
mod shares;
mod snapshots;
#[cfg(test)]
mod tests;
mod users;
mod volumes;
mod writer;

use std::{path::Path, sync::Arc};

use base::ids::{BackupId, SandboxId, SnapshotId, UserId, VolumeId};
use net::address::Pool;
use rusqlite::{Row, Transaction};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use self::{
    directory::Directory, images::Images, published::PublishedPorts, shared::OpenShares,
    writer::Writer,
};
pub(crate) use self::{images::taken as image_taken, networks::Networks};
pub use crate::record::{
    Attachment, Identity, Likeness, Record, SnapshotRecord, SnapshotState, State, VolumeRecord,
};
use crate::{
    Error, Kind, Result,
    backups::{Backup, Scheduled},
    model::{User, UserEdit, UserLimits, VolumeState},
};

/// The name of the first admin, which [`Store::ensure_admin`] makes.
pub const FIRST_ADMIN: &str = "admin";

/// What the first admin may have: whatever the host can bear.
const ADMIN_LIMITS: UserLimits = UserLimits {
    sandboxes: 200,
    cpus_per_sandbox: 64,
    memory_mib_per_sandbox: 1 << 30,
    snapshots: 200,
    volume_mib: 1 << 40,
    backups: 1 << 20,
};

/// A handle to the store; clones share it, and it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Writer,
    directory: Arc<Directory>,
    networks: Arc<Networks>,
    published: Arc<PublishedPorts>,
    shares: Arc<OpenShares>,
    images: Arc<Images>,
}

impl Store {
    /// Opens or makes the store at `path` and brings its schema up to date. Blocks.
    pub fn open(path: &Path) -> Result<Self> {
        let mut connection = schema::open(path)?;
        let directory = Arc::new(Directory::default());
        let reading = connection.transaction()?;
        directory.replace(users::list_with_keys(&reading)?);
        let published = Arc::new(PublishedPorts::of(publications::list(&reading)?));
        let shares = Arc::new(OpenShares::of(shares::list(&reading)?));
        let images = Arc::new(Images::default());
        images.replace(images::list(&reading)?);
        reading.finish()?;
        let networks = Networks { pool: Pool::default(), connected: false };
        let (writer, networks) = (Writer::start(connection)?, Arc::new(networks));
        Ok(Self { writer, directory, networks, published, shares, images })
    }

    /// The same store with other numbers for users' networks.
    pub(crate) fn with_networks(self, networks: Networks) -> Self {
        Self { networks: Arc::new(networks), ..self }
    }

    /// All sandboxes of all users, oldest first.
    pub async fn sandboxes(&self) -> Result<Vec<Record>> {
        self.writer.run(|c| sandboxes::list(c)).await
    }

    /// Keeps a new sandbox if its name is free and its owner has less than `limit`, and returns
    /// what was stored: `slot` and `address` are chosen here, the smallest that are free.
    pub async fn insert_sandbox(&self, record: &Record, limit: u32) -> Result<Record> {
        let inserted = self.insert_sandboxes(vec![record.clone()], limit).await?;
        let missing = || Error::new(Kind::Internal, "a sandbox was not kept");
        inserted.into_iter().next().ok_or_else(missing)
    }

    async fn has_network(&self, owner: &UserId) -> Result<bool> {
        let owner = owner.clone();
        self.writer.run(move |c| Ok(networks::network_of(c, &owner)?.is_some())).await
    }

    /// Keeps several new sandboxes of one owner as [`insert_sandbox`](Self::insert_sandbox) does,
    /// all or none.
    pub async fn insert_sandboxes(&self, records: Vec<Record>, limit: u32) -> Result<Vec<Record>> {
        let networks = Arc::clone(&self.networks);
        let owner = records.first().map(|record| record.owner.clone());
        let taken = match owner {
            // The host is asked only if a number is going to be given.
            Some(owner) if !self.has_network(&owner).await? => networks.taken().await?,
            _ => Vec::new(),
        };
        self.writer
            .transaction(move |t| {
                let insert = |record| sandboxes::insert(t, record, limit, (&networks, &taken));
                records.into_iter().map(insert).collect()
            })
            .await
    }

    /// Keeps what an owner may change: name, labels and policy. `generation` as in
    /// [`update_state`](Self::update_state).
    pub async fn update_sandbox(&self, record: &Record) -> Result<()> {
        let record = record.clone();
        self.writer.transaction(move |t| sandboxes::edit(t, &record)).await
    }

    /// As [`update_state`](Self::update_state), for a state whose loss would do no harm: nobody
    /// waits until it is on the disk. The order of writes stays.
    pub(crate) async fn note_state(&self, id: &SandboxId, generation: u64, state: &State) {
        let (id, state) = (id.clone(), state.clone());
        self.writer.post(move |t| sandboxes::update(t, &id, generation, &state)).await;
    }

    /// All named snapshots, oldest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotRecord>> {
        self.writer.run(|c| snapshots::list(c)).await
    }

    /// Keeps a new snapshot if its name is free and its owner has less than `limit`.
    pub async fn insert_snapshot(&self, record: &SnapshotRecord, limit: u32) -> Result<()> {
        let record = record.clone();
        self.writer.transaction(move |t| snapshots::insert(t, &record, limit)).await
    }

    /// Keeps where a snapshot is in its life.
    pub async fn update_snapshot(&self, id: &SnapshotId, state: SnapshotState) -> Result<()> {
        let id = id.clone();
        self.writer.transaction(move |t| snapshots::update(t, &id, state)).await
    }

    /// Forgets a snapshot. That it is not there is no error.
    pub async fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        let id = id.clone();
        self.writer.transaction(move |t| snapshots::delete(t, &id)).await
    }

    /// All volumes, oldest first.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        self.writer.run(|c| volumes::list(c)).await
    }

    /// One volume.
    pub async fn volume(&self, id: &VolumeId) -> Result<VolumeRecord> {
        let id = id.clone();
        self.writer.run(move |c| volumes::get(c, &id)).await
    }

    /// Which sandboxes have volumes.
    pub async fn attachments(&self) -> Result<Vec<Attachment>> {
        self.writer.run(|c| volumes::attachments(c)).await
    }

    /// Keeps a new volume if its name is free and its owner's volumes are then at most `limit` MiB.
    pub async fn insert_volume(&self, record: &VolumeRecord, limit: u64) -> Result<()> {
        let record = record.clone();
        self.writer.transaction(move |t| volumes::insert(t, &record, limit)).await
    }

    /// Keeps where a volume is in its life; it is not removed while a sandbox has it.
    pub async fn update_volume(&self, id: &VolumeId, state: VolumeState) -> Result<()> {
        let id = id.clone();
        self.writer.transaction(move |t| volumes::update(t, &id, state)).await
    }

    /// Keeps another size of a volume that nobody has but `by`, within the owner's `limit`, MiB.
    pub async fn resize_volume(
        &self,
        id: &VolumeId,
        size_mib: u64,
        limit: u64,
        by: Option<Attachment>,
    ) -> Result<()> {
        let id = id.clone();
        self.writer
            .transaction(move |t| volumes::resize(t, &id, size_mib, limit, by.as_ref()))
            .await
    }

    /// Forgets a volume. That it is not there is no error.
    pub async fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let id = id.clone();
        self.writer.transaction(move |t| volumes::delete(t, &id)).await
    }

    /// All backups of volumes, oldest first.
    pub(crate) async fn backups(&self) -> Result<Vec<Backup>> {
        self.writer.run(|c| backups::list(c)).await
    }

    /// Keeps a new backup.
    ///
    /// # Errors
    /// [`Kind::QuotaBackups`] if its owner has `limit` already.
    pub(crate) async fn new_backup(&self, backup: &Backup, limit: u32) -> Result<()> {
        let backup = backup.clone();
        self.writer.transaction(move |t| backups::begin(t, &backup, limit)).await
    }

    /// Keeps a backup as it is now, new or not.
    pub(crate) async fn keep_backup(&self, backup: &Backup) -> Result<()> {
        let backup = backup.clone();
        self.writer.transaction(move |t| backups::keep(t, &backup)).await
    }

    /// Forgets a backup. That it is not there is no error.
    pub(crate) async fn delete_backup(&self, id: &BackupId) -> Result<()> {
        let id = id.clone();
        self.writer.transaction(move |t| backups::delete(t, &id)).await
    }

    /// When which volumes are backed up.
    pub(crate) async fn schedules(&self) -> Result<Vec<Scheduled>> {
        self.writer.run(|c| backups::schedules(c)).await
    }

    /// Keeps when a volume is backed up, instead of what was known before.
    pub(crate) async fn keep_schedule(&self, schedule: &Scheduled) -> Result<()> {
        let schedule = schedule.clone();
        self.writer.transaction(move |t| backups::keep_schedule(t, &schedule)).await
    }

    /// Notes how a run of a volume's schedule ended, if it still has one.
    pub(crate) async fn note_run(
        &self,
        volume: &VolumeId,
        at: i64,
        failure: Option<String>,
    ) -> Result<()> {
        let volume = volume.clone();
        self.writer
            .transaction(move |t| backups::note_run(t, &volume, at, failure.as_deref()))
            .await
    }

    /// Backs a volume up no more. That it is not is no error.
    pub(crate) async fn delete_schedule(&self, volume: &VolumeId) -> Result<()> {
        let volume = volume.clone();
        self.writer.transaction(move |t| backups::delete_schedule(t, &volume)).await
    }

    /// Keeps a new state. `generation` must be above the stored one: an older writer never undoes
    /// a newer one.
    pub async fn update_state(&self, id: &SandboxId, generation: u64, state: &State) -> Result<()> {
        let (id, state) = (id.clone(), state.clone());
        self.writer.transaction(move |t| sandboxes::update(t, &id, generation, &state)).await
    }

    /// Forgets a sandbox, what is published of it and its shares; its name and slot are free then. That it is
    /// not there is no error.
    pub async fn delete_sandbox(&self, id: &SandboxId) -> Result<()> {
        let (id, published) = (id.clone(), Arc::clone(&self.published));
        let shares = Arc::clone(&self.shares);
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                sandboxes::delete(&transaction, &id)?;
                writer::commit(transaction)?;
                published.forget_sandbox(&id);
                shares.forget(|share| share.sandbox == id);
                Ok(())
            })
            .await
    }

    /// Makes a user and returns it with its key, which is not stored and cannot be had again.
    pub async fn create_user(
        &self,
        name: &str,
        admin: bool,
        limits: UserLimits,
    ) -> Result<(User, String)> {
        let user = users::new(name, admin, limits)?;
        self.change_users(move |t| users::insert(t, user)).await
    }

    /// All users, oldest first, with the number of sandboxes that each owns.
    pub async fn users(&self) -> Result<Vec<(User, u32)>> {
        self.writer.run(|c| users::list_with_counts(c)).await
    }

    /// The user of that id or name.
    pub async fn find_user(&self, name_or_id: &str) -> Result<User> {
        let wanted = name_or_id.to_owned();
        self.writer.run(move |c| users::find(c, &wanted)).await
    }

    /// Removes a user that owns nothing, and returns it and the number of its network. One admin
    /// must remain.
    pub async fn delete_user(&self, name_or_id: &str) -> Result<(User, Option<u16>)> {
        let wanted = name_or_id.to_owned();
        self.change_users(move |t| users::delete(t, &wanted)).await
    }

    /// Changes what a user may have, and returns the user.
    pub async fn edit_user(&self, name_or_id: &str, edit: UserEdit) -> Result<User> {
        let wanted = name_or_id.to_owned();
        self.change_users(move |t| users::edit(t, &wanted, edit)).await
    }

    /// Gives a user a new key; the old one is void from the moment that this returns.
    pub async fn rotate_key(&self, name_or_id: &str) -> Result<(User, String)> {
        let wanted = name_or_id.to_owned();
        self.change_users(move |t| users::rotate(t, &wanted)).await
    }

    /// Makes the first admin and returns its key, unless there is an admin.
    pub async fn ensure_admin(&self) -> Result<Option<String>> {
        if self.directory.admin().is_some() {
            return Ok(None);
        }
        let user = users::new(FIRST_ADMIN, true, ADMIN_LIMITS)?;
        self.change_users(move |t| match users::any_admin(t)? {
            true => Ok(None),
            false => users::insert(t, user).map(|(_, key)| Some(key)),
        })
        .await
    }

    /// Whom a key belongs to. Memory only, so that every request can afford it.
    pub fn user_by_key(&self, key: &str) -> Option<User> {
        self.directory.by_key(key)
    }

    /// The oldest admin: who the host's own root is. Memory only.
    pub fn admin(&self) -> Option<User> {
        self.directory.admin()
    }

    /// The user of that id. Memory only.
    pub fn user_by_id(&self, id: &UserId) -> Option<User> {
        self.directory.by_id(id)
    }

    /// Changes whenever a user does.
    pub(crate) fn user_changes(&self) -> watch::Receiver<u64> {
        self.directory.changes()
    }

    /// Runs a transaction that may change users. What the directory will say is read before the
    /// commit and put in place right after it, in the writer thread: there is no moment at which a
    /// void key is still good because a read failed or a caller went away.
    async fn change_users<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (directory, images) = (Arc::clone(&self.directory), Arc::clone(&self.images));
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                let done = work(&transaction)?;
                let users = users::list_with_keys(&transaction)?;
                // With a user goes what was shared with it.
                let shared = images::list(&transaction)?;
                writer::commit(transaction)?;
                directory.replace(users);
                images.replace(shared);
                Ok(done)
            })
            .await
    }
}

/// A stored value that no version of this program can have written.
fn corrupt(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Internal, format!("the store holds {what} that cannot be read"))
        .caused_by(source)
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("a value has no JSON form", e))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| corrupt(column, e))
}
