//! Bringing a backup back, as a new volume or instead of what is on one.

use std::{fs::File, io, path::Path, sync::Arc};

use backup::{seal::Identities, source::Target, spool};
use base::{fault, files};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    Backup,
    run::key,
    settings::{kept_badly, read_badly},
};
use crate::{
    Error, Kind, Result,
    chain::Chain,
    facade::Progress,
    model::VolumeState,
    node::{Node, blocking},
    record::VolumeRecord,
    volumes,
};

/// A new disk that is not larger than its volume, and says how far it is.
struct Disk {
    file: File,
    most: u64,
}

impl Target for Disk {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        if size > self.most {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is larger than its volume",
            ));
        }
        self.file.set_len(size)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        Target::write_at(&mut self.file, data, offset)
    }
}

/// Makes the directory `place`, which must not be there, a volume that holds what was backed up: whole
/// and checked, or not at all.
pub(super) async fn fetch(
    node: &Arc<Node>,
    backup: &Backup,
    identities: Option<Identities>,
    place: &Path,
    progress: &Progress,
) -> Result<()> {
    progress.say("asking for the backup");
    let destination = node.backups.places.get(&backup.destination)?;
    let input = destination.get(&key(backup)?, backup.bytes).await.map_err(kept_badly)?;
    let (place, progress, backup) = (place.to_owned(), progress.clone(), backup.clone());
    blocking(move || {
        let made = (|| {
            fs_err::create_dir(&place)?;
            let raw = Chain::at(place.clone()).raw();
            let file = fs_err::OpenOptions::new().write(true).create_new(true).open(raw)?;
            let most = backup.size_mib << 20;
            let mut disk = Disk { file: file.into_file(), most };
            let mut said = 0;
            let sha256 = Some(backup.sha256.as_str());
            spool::restore(input, sha256, identities.as_ref(), &mut disk, &mut |at| {
                let percent = at.saturating_mul(100) / most.max(1);
                if percent > said {
                    said = percent;
                    progress.say(format!("restoring: {percent} %"));
                }
                Ok(())
            })
            .map_err(read_badly)?;
            fault::point("restore.written")?;
            disk.file.sync_all()?;
            Ok(files::sync_directory(&place)?)
        })();
        if made.is_err() {
            let _ = files::remove_any(&place);
        }
        made
    })
    .await
}

/// Puts what was backed up in the place of what is on a volume that nobody has. The old content goes
/// once the new is whole.
pub(super) async fn replace(
    node: &Arc<Node>,
    volume: &VolumeRecord,
    limit: u64,
    backup: &Backup,
    identities: Option<Identities>,
    progress: &Progress,
) -> Result<()> {
    check_alone(node, volume).await?;
    let place = node.layout.volume(&volume.id);
    let temporary = files::temporary_sibling(&place);
    fetch(node, backup, identities, &temporary, progress).await?;
    let exchanged = async {
        let _alone = node.volumes.lock().await;
        check_alone(node, volume).await?;
        // Before the disk is there: one that is smaller than its volume grows, one that is larger
        // would be cut off.
        let size_mib = volume.size_mib.max(backup.size_mib);
        node.store.resize_volume(&volume.id, size_mib, limit, None).await?;
        fault::point("restore.exchange")?;
        let (new, place) = (temporary.clone(), place.clone());
        blocking(move || {
            renameat_with(CWD, &new, CWD, &place, RenameFlags::EXCHANGE)
                .map_err(io::Error::from)?;
            fault::point("restore.exchanged")?;
            Ok(files::sync_parent(&place)?)
        })
        .await
    };
    let exchanged = exchanged.await;
    // What is under this name now is not needed, whichever of the two it is.
    let _ = blocking(move || Ok(files::remove_any(&temporary)?)).await;
    exchanged
}

async fn check_alone(node: &Node, volume: &VolumeRecord) -> Result<()> {
    if node.store.volume(&volume.id).await?.state != VolumeState::Ready {
        let message = format!("volume {} is being made or removed", volume.name);
        return Err(Error::new(Kind::VolumeInUse, message));
    }
    let users = volumes::of(&node.store.attachments().await?, &volume.id);
    match users.first() {
        None => Ok(()),
        Some(user) => {
            let message = format!("volume {} is in use by sandbox {}", volume.name, user.name);
            Err(Error::new(Kind::VolumeInUse, message).hint(format!(
                "restore it as another volume with --as NEW, or destroy the sandbox first: \
                 bhatti destroy {}",
                user.name
            )))
        }
    }
}
