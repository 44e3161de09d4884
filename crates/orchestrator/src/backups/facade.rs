//! What people do with backups.

use std::sync::Arc;

use backup::seal::Identities;
use base::{
    clock, files,
    ids::{BackupId, Name},
};

use super::{Backup, BackupState, Plan, Scheduled, restore, run, scheduler, settings::bad_key};
use crate::{
    Error, Kind, Orchestrator, Result,
    facade::Progress,
    model::{User, VolumeView},
    node::{Node, blocking},
    record::VolumeRecord,
    volumes,
};

/// How a backup is wanted.
#[derive(Debug, Clone, Default)]
pub struct BackupRequest {
    /// Where it is to be kept; the default place if absent.
    pub destination: Option<String>,
    /// Whom it is encrypted for, besides those that are configured: `age1…`.
    pub recipients: Vec<String>,
}

/// What is to be restored.
#[derive(Clone, Default)]
pub struct RestoreRequest {
    /// The backup.
    pub backup: String,
    /// The name of the new volume; if absent, the volume of that name gets the content, or is made.
    pub new_name: Option<String>,
    /// Secret keys that may open it, as `age-keygen` writes them. Kept nowhere.
    pub identity: Option<String>,
}

impl std::fmt::Debug for RestoreRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoreRequest").field("backup", &self.backup).finish_non_exhaustive()
    }
}

/// When a volume is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleView {
    /// As it was asked for.
    pub plan: Plan,
    /// When the next one is due, Unix seconds.
    pub next_at: Option<i64>,
    /// What went wrong the last time.
    pub failure: Option<String>,
}

/// What an operator wants to know of a node's backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// The names of the places where they may be kept.
    pub destinations: Vec<String>,
    /// How many volumes are backed up when it is time.
    pub schedules: usize,
    /// Schedules whose last run failed, or that cannot run any more.
    pub failures: Vec<ScheduleFailure>,
}

/// A schedule that does not do what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleFailure {
    /// The volume's name.
    pub volume: Name,
    /// The owner's name.
    pub owner: Name,
    /// Why, for people.
    pub message: String,
}

impl Orchestrator {
    /// What an operator wants to know of all users' backups.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn backup_report(&self) -> Result<BackupReport> {
        let schedules = self.node.store.schedules().await?;
        let (users, volumes) = (self.node.store.users().await?, self.node.store.volumes().await?);
        let mut report = BackupReport {
            destinations: self.node.backups.places.names(),
            schedules: schedules.len(),
            failures: Vec::new(),
        };
        for scheduled in schedules {
            let volume = volumes.iter().find(|volume| volume.id == scheduled.volume);
            let owner = users.iter().find(|(user, _)| user.id == scheduled.owner);
            // Either may have gone since.
            let (Some(volume), Some((owner, _))) = (volume, owner) else { continue };
            let destination = scheduled.plan.destination.as_deref();
            let unknown = self.node.backups.places.choose(destination).err();
            let failure = view(scheduled).failure.or(unknown.map(|error| error.message));
            report.failures.extend(failure.map(|message| ScheduleFailure {
                volume: volume.name.clone(),
                owner: owner.name.clone(),
                message,
            }));
        }
        Ok(report)
    }

    /// Makes a backup of a volume as it is now, whoever uses it. Goes on to its end even if the caller
    /// leaves.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`], [`Kind::BackupUnconfigured`], [`Kind::BackupStorageFailed`],
    /// [`Kind::QuotaBackups`].
    pub async fn back_up_volume(
        &self,
        owner: &User,
        name: &str,
        wanted: BackupRequest,
        progress: Progress,
    ) -> Result<Backup> {
        let volume = volumes::find(&self.node, owner, name).await?;
        let recipients = self.node.backups.places.recipients(&wanted.recipients)?;
        let destination = self.node.backups.places.choose(wanted.destination.as_deref())?;
        let encrypted = recipients.is_some();
        let begun = begin(&self.node, &volume, destination, encrypted, false).await?;
        let running =
            tokio::spawn(run::run(Arc::clone(&self.node), begun, volume, recipients, progress));
        running.await.map_err(|error| Error::internal("a task failed", error))?
    }

    /// The owner's backups of volumes that have or had this name, oldest first.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`] if there are none and no such volume.
    pub async fn volume_backups(&self, owner: &User, name: &str) -> Result<Vec<Backup>> {
        let volume = volumes::find(&self.node, owner, name).await;
        let mut all = self.node.store.backups().await?;
        let meant = |backup: &Backup| {
            let same = volume.as_ref().is_ok_and(|volume| volume.id == backup.volume);
            same || backup.name.as_str() == name || backup.volume.as_str() == name
        };
        all.retain(|backup| backup.owner == owner.id && meant(backup));
        match volume {
            Err(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    /// Removes a backup.
    ///
    /// # Errors
    /// [`Kind::BackupNotFound`]; [`Kind::WrongState`] while it is being made.
    pub async fn delete_backup(&self, owner: &User, name: &str, id: &str) -> Result<Backup> {
        let backup = self.backup(owner, name, id).await?;
        if matches!(backup.state, BackupState::Making | BackupState::Sending) {
            let message = format!("backup {} is still being made", backup.id);
            return Err(Error::new(Kind::WrongState, message).hint("delete it when it is done"));
        }
        let (node, removed) = (Arc::clone(&self.node), backup.clone());
        let removing = tokio::spawn(async move { run::remove(&node, &removed).await });
        removing.await.map_err(|error| Error::internal("a task failed", error))??;
        Ok(backup)
    }

    /// Brings back what a volume held, as a new volume or on one that nobody has. Goes on to its end
    /// even if the caller leaves; what was there stays until all is there and checked.
    ///
    /// # Errors
    /// [`Kind::BackupNotFound`], [`Kind::BackupCorrupt`], [`Kind::BackupLocked`],
    /// [`Kind::BackupStorageFailed`]; those of making a volume; [`Kind::VolumeInUse`].
    pub async fn restore_volume(
        &self,
        owner: &User,
        name: &str,
        wanted: RestoreRequest,
        progress: Progress,
    ) -> Result<VolumeView> {
        let backup = self.backup(owner, name, &wanted.backup).await?;
        if backup.state != BackupState::Ready {
            let message = format!("backup {} is not whole", backup.id);
            return Err(Error::new(Kind::WrongState, message)
                .hint(format!("see which are: bhatti volume backup-list {name}")));
        }
        let identities = wanted.identity.as_deref().map(Identities::parse).transpose();
        let identities = identities.map_err(|error| bad_key(&error))?;
        let there = match &wanted.new_name {
            Some(_) => None,
            None => volumes::find(&self.node, owner, name).await.ok(),
        };
        let Some(volume) = there else {
            let name = wanted.new_name.as_deref().unwrap_or(backup.name.as_str());
            let record = volumes::new_record(owner, name, backup.size_mib)?;
            return self
                .make(owner, record, |node, record| async move {
                    let place = node.layout.volume(&record.id);
                    let temporary = files::temporary_sibling(&place);
                    restore::fetch(&node, &backup, identities, &temporary, &progress).await?;
                    blocking(move || {
                        let done = files::commit_directory(&temporary, &place);
                        if done.is_err() {
                            let _ = files::remove_any(&temporary);
                        }
                        Ok(done?)
                    })
                    .await
                })
                .await;
        };
        let (node, limit, replaced) =
            (Arc::clone(&self.node), owner.limits.volume_mib, volume.clone());
        let replacing = tokio::spawn(async move {
            restore::replace(&node, &replaced, limit, &backup, identities, &progress).await
        });
        replacing.await.map_err(|error| Error::internal("a task failed", error))??;
        self.volume(owner, volume.id.as_str()).await
    }

    /// Has a volume backed up when it is time, from now on.
    ///
    /// # Errors
    /// [`Kind::ScheduleInvalid`], and those of a backup that is asked for.
    pub async fn schedule_backups(
        &self,
        owner: &User,
        name: &str,
        plan: Plan,
    ) -> Result<ScheduleView> {
        let volume = volumes::find(&self.node, owner, name).await?;
        scheduler::schedule(&plan)?;
        self.node.backups.places.recipients(&plan.recipients)?;
        self.node.backups.places.choose(plan.destination.as_deref())?;
        Ok(view(scheduler::set(&self.node, &volume, plan).await?))
    }

    /// Has a volume backed up no more; the backups stay.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`].
    pub async fn unschedule_backups(&self, owner: &User, name: &str) -> Result<()> {
        let volume = volumes::find(&self.node, owner, name).await?;
        self.node.store.delete_schedule(&volume.id).await?;
        self.node.backups.news.notify_one();
        Ok(())
    }

    /// When a volume is backed up, if it is.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`].
    pub async fn backup_schedule(&self, owner: &User, name: &str) -> Result<Option<ScheduleView>> {
        let volume = volumes::find(&self.node, owner, name).await?;
        Ok(scheduler::of(&self.node, &volume.id).await?.map(view))
    }

    async fn backup(&self, owner: &User, name: &str, id: &str) -> Result<Backup> {
        let shown: String = id.chars().take(80).collect();
        let missing = || {
            Error::new(Kind::BackupNotFound, format!("there is no backup {shown:?} of {name}"))
                .hint(format!("see what there is: bhatti volume backup-list {name}"))
        };
        let all = match self.volume_backups(owner, name).await {
            Err(error) if error.kind == Kind::VolumeNotFound => return Err(missing()),
            other => other?,
        };
        all.into_iter().find(|backup| backup.id.as_str() == id).ok_or_else(missing)
    }
}

/// Keeps the row of a backup that is about to be made.
pub(super) async fn begin(
    node: &Node,
    volume: &VolumeRecord,
    destination: String,
    encrypted: bool,
    scheduled: bool,
) -> Result<Backup> {
    let (id, created_at) = (BackupId::random(), clock::unix_seconds());
    let key = key(&volume.name, volume.id.as_str(), &id, encrypted);
    let backup = Backup {
        id,
        volume: volume.id.clone(),
        owner: volume.owner.clone(),
        name: volume.name.clone(),
        size_mib: volume.size_mib,
        destination,
        key,
        bytes: 0,
        sha256: String::new(),
        encrypted,
        scheduled,
        state: BackupState::Making,
        created_at,
    };
    let owner = node.store.user_by_id(&backup.owner);
    let limit = owner.map_or(0, |owner| owner.limits.backups);
    node.store.new_backup(&backup, limit).await?;
    Ok(backup)
}

/// People find it by the volume's name; that it is nobody else's is for the ids to see to.
fn key(name: &Name, volume: &str, id: &BackupId, encrypted: bool) -> String {
    let end = if encrypted { ".age" } else { "" };
    format!("volumes/{name}-{volume}/{id}.bhvol{end}")
}

fn view(scheduled: Scheduled) -> ScheduleView {
    let schedule = scheduler::schedule(&scheduled.plan);
    let next_at = schedule.as_ref().ok().and_then(|s| s.after(scheduled.looked_at));
    let failure = schedule.err().map(|error| error.message).or(scheduled.failure);
    ScheduleView { plan: scheduled.plan, next_at, failure }
}
