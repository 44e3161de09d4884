//! Making a backup and sending it, also when it was begun by an earlier daemon.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use backup::{
    destination::Key,
    format::Manifest,
    seal::Recipients,
    source::Source,
    spool::{self, Made},
};
use base::{fault, files};

use super::{Backup, BackupState, scheduler, settings::kept_badly};
use crate::{
    Error, Result,
    chain::Chain,
    facade::Progress,
    node::{Node, blocking},
    record::VolumeRecord,
    volumes,
};

const FROZEN: &str = "frozen";
const BACKUP: &str = "backup";
const JOURNAL: &str = "journal";

/// A volume's layers, as a backup reads them.
struct Disk(disk::qcow2::Chain);

impl Source for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn next_data(&mut self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(from)
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }
}

/// Makes a backup whose row is there, to its end; a failure is in the row, too.
pub(super) async fn run(
    node: Arc<Node>,
    mut backup: Backup,
    volume: VolumeRecord,
    recipients: Option<Recipients>,
    progress: Progress,
) -> Result<Backup> {
    progress.say("waiting for other backups");
    let _turn = node.backups.turns.acquire().await;
    let made = make(&node, &backup, &volume, recipients, &progress).await;
    let made = match made {
        Ok(made) => made,
        Err(error) => return Err(failed(&node, backup, error).await),
    };
    (backup.bytes, backup.sha256) = (made.bytes, made.sha256.clone());
    backup.state = BackupState::Sending;
    if let Err(error) = node.store.keep_backup(&backup).await {
        return Err(failed(&node, backup, error).await);
    }
    send(&node, backup, &progress).await
}

async fn make(
    node: &Arc<Node>,
    backup: &Backup,
    volume: &VolumeRecord,
    recipients: Option<Recipients>,
    progress: &Progress,
) -> Result<Made> {
    let place = node.layout.backup(&backup.id);
    let frozen = place.join(FROZEN);
    progress.say(format!("keeping what {} holds now", backup.name));
    fs_err::create_dir(&place)?;
    fault::point("backup.begun")?;
    volumes::copy(node, volume, &frozen).await?;
    fault::point("backup.frozen")?;
    let (name, progress) = (backup.name.as_str().to_owned(), progress.clone());
    blocking(move || {
        let mut source = Disk(Chain::at(frozen.clone()).reader()?);
        let size = source.size();
        let manifest = Manifest::new(name, size, recipients.is_some());
        let mut said = 0;
        let made = spool::make(
            &mut source,
            &manifest,
            recipients.as_ref(),
            &place.join(BACKUP),
            &mut |at| {
                let percent = at.saturating_mul(100) / size.max(1);
                if percent > said {
                    said = percent;
                    progress.say(format!("compressing: {percent} %"));
                }
                Ok(())
            },
        )?;
        files::remove_any(&frozen)?;
        Ok(made)
    })
    .await
}

/// Sends a backup that is made, from where it stopped.
pub(super) async fn send(node: &Arc<Node>, backup: Backup, progress: &Progress) -> Result<Backup> {
    let place = node.layout.backup(&backup.id);
    let (file, journal) = (place.join(BACKUP), place.join(JOURNAL));
    let sent = async {
        fault::point("backup.sending")?;
        let destination = node.backups.places.get(&backup.destination)?;
        let key = key(&backup)?;
        let made = Made {
            bytes: backup.bytes,
            sha256: backup.sha256.clone(),
            data: 0,
            encrypted: backup.encrypted,
        };
        let say = |at: u64| {
            let percent = at.saturating_mul(100) / made.bytes.max(1);
            progress.say(format!("sending: {percent} %"));
        };
        // A directory takes the file away; one that is there already was taken before a crash.
        if file.exists() || journal.exists() {
            destination.put(&file, &made, &key, &journal, &say).await.map_err(kept_badly)?;
        } else {
            let there = destination.get(&key, backup.bytes).await.map_err(kept_badly)?;
            drop(there);
        }
        Ok(fault::point("backup.sent")?)
    };
    if let Err(error) = sent.await {
        return Err(failed(node, backup, error).await);
    }
    let ready = Backup { state: BackupState::Ready, ..backup };
    node.store.keep_backup(&ready).await?;
    let _ = blocking(move || Ok(files::remove_any(&place)?)).await;
    Ok(ready)
}

/// Leaves nothing of a backup but the word that it failed.
async fn failed(node: &Arc<Node>, backup: Backup, error: Error) -> Error {
    tracing::warn!(backup = %backup.id, volume = %backup.name, error = base::chain(&error),
        "a backup failed");
    let place = node.layout.backup(&backup.id);
    if let (Ok(destination), Ok(key)) = (node.backups.places.get(&backup.destination), key(&backup))
    {
        for cleaned in
            [destination.abandon(&place.join(JOURNAL)).await, destination.delete(&key).await]
        {
            if let Err(error) = cleaned {
                tracing::debug!(error = base::chain(&error), "what was sent of it is still there");
            }
        }
    }
    let _ = blocking(move || Ok(files::remove_any(&place)?)).await;
    let state = BackupState::Failed { message: error.message.clone() };
    if let Err(error) = node.store.keep_backup(&Backup { state, ..backup }).await {
        tracing::error!(error = base::chain(&error), "that a backup failed cannot be noted");
    }
    error
}

/// Removes a backup from where it is kept, and then its row. What cannot be removed keeps its row, and is
/// tried again by the next daemon.
pub(super) async fn remove(node: &Arc<Node>, backup: &Backup) -> Result<()> {
    let removing = Backup { state: BackupState::Removing, ..backup.clone() };
    node.store.keep_backup(&removing).await?;
    fault::point("backup.removing")?;
    // Of what failed there may be something left that was told to nobody.
    let destination = node.backups.places.get(&backup.destination)?;
    destination.delete(&key(backup)?).await.map_err(kept_badly)?;
    node.store.delete_backup(&backup.id).await
}

pub(super) fn key(backup: &Backup) -> Result<Key> {
    Key::new(&backup.key).map_err(|error| Error::internal("a backup has no key", error))
}

/// Goes on with what an earlier daemon began, and looks at schedules from then on.
pub(crate) async fn take_up(node: &Arc<Node>) -> Result<()> {
    let backups = node.store.backups().await?;
    let mut sending = Vec::new();
    let mut removing = Vec::new();
    let mut begun: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    for mut backup in backups {
        if !matches!(backup.state, BackupState::Ready) {
            begun.entry(backup.destination.clone()).or_default().extend(key(&backup));
        }
        match backup.state {
            BackupState::Making => {
                let message = "the daemon ended while it was being made".to_owned();
                backup.state = BackupState::Failed { message };
                node.store.keep_backup(&backup).await?;
            }
            BackupState::Sending => sending.push(backup),
            BackupState::Removing => removing.push(backup),
            BackupState::Ready | BackupState::Failed { .. } => {}
        }
    }
    let known: HashSet<PathBuf> = sending.iter().map(|b| node.layout.backup(&b.id)).collect();
    let directory = node.layout.backups();
    let kept = known.clone();
    blocking(move || remove_others(&directory, &kept)).await?;
    let journals: Vec<PathBuf> = known.iter().map(|place| place.join(JOURNAL)).collect();
    let (weak, node) = (Arc::downgrade(node), Arc::clone(node));
    tokio::spawn(async move {
        for (name, keys) in begun {
            let Ok(destination) = node.backups.places.get(&name) else { continue };
            match destination.sweep(&keys, &journals).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(place = name, count, "unfinished backups were ended"),
                Err(error) => tracing::warn!(
                    place = name,
                    error = base::chain(&error),
                    "unfinished backups cannot be looked for"
                ),
            }
        }
        for backup in removing {
            if let Err(error) = remove(&node, &backup).await {
                tracing::warn!(backup = %backup.id, error = base::chain(&error),
                    "a backup is not wholly removed yet");
            }
        }
        for backup in sending {
            // A failure is in its row.
            let _ = send(&node, backup, &Progress::default()).await;
        }
    });
    tokio::spawn(scheduler::keep(weak));
    Ok(())
}

/// Removes what is in a directory but for these.
fn remove_others(directory: &Path, known: &HashSet<PathBuf>) -> Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        if !known.contains(&path) {
            files::remove_any(&path)?;
        }
    }
    Ok(())
}
