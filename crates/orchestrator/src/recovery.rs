//! Making store and world agree after a start.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use base::{files, process::Process};

use crate::{
    Kind, Result, copies,
    driver::Begin,
    model::VolumeState,
    node::{Node, blocking},
    record::{Attachment, Record, SnapshotState, State},
    sandbox::Sandbox,
    spares, volumes,
};

/// What the names of directories begin with that belong to nobody.
pub(crate) const LOST: &str = "lost-";

/// Starts a driver for every sandbox and removes what belongs to none: monitors without a record,
/// their sockets and control groups, directories without a row.
///
/// Directories are removed only if they hold no committed data of a sandbox, which is so exactly if
/// the row was never written; a directory that has a row is never touched here.
pub(crate) async fn take_up(node: &Arc<Node>, records: Vec<Record>) -> Result<()> {
    let running: HashSet<i32> = records
        .iter()
        .filter_map(|r| match r.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        })
        .collect();
    kill_strays(node, &running).await?;
    for (record, pid) in records.iter().filter_map(|r| match r.state {
        State::Running { pid, .. } => Some((r, pid)),
        _ => None,
    }) {
        if let Ok(uid) = base::process::real_uid(pid) {
            node.keep_uid(record.id.as_str(), uid);
        }
    }
    let known: HashSet<String> = records.iter().map(|r| r.id.as_str().to_owned()).collect();
    for name in node.leftovers()? {
        if !known.contains(&name) {
            node.clean_run(&name);
        }
    }
    set_aside(node.layout.sandboxes(), known).await?;
    let known = settle_snapshots(node).await?;
    set_aside(node.layout.snapshots(), known).await?;
    let known = settle_volumes(node, &records).await?;
    set_aside(node.layout.volumes(), known).await?;
    for record in records {
        start(node, record);
    }
    Ok(())
}

/// Removes the snapshots that are half-made or half-removed.
async fn settle_snapshots(node: &Arc<Node>) -> Result<HashSet<String>> {
    let mut known = HashSet::new();
    for record in node.store.snapshots().await? {
        match record.state {
            SnapshotState::Ready => drop(known.insert(record.id.as_str().to_owned())),
            SnapshotState::Making | SnapshotState::Removing => {
                if copies::remove(node, &record.id).await.is_err() {
                    known.insert(record.id.as_str().to_owned());
                }
            }
        }
    }
    Ok(known)
}

/// Removes the volumes that are half-made or half-removed, and takes back what is said of those that were
/// not grown to the end.
async fn settle_volumes(node: &Arc<Node>, sandboxes: &[Record]) -> Result<HashSet<String>> {
    let mut known = HashSet::new();
    let attachments = node.store.attachments().await?;
    // A disk that is in use is as large as its sandbox was told; one of a sandbox that did not come to be
    // is given to nobody yet.
    let writers = attachments.into_iter().filter(|user| {
        let lives = |one: &&Record| one.id == user.sandbox && one.state != State::Creating;
        !user.read_only && sandboxes.iter().any(|one| lives(&one))
    });
    let writers: Vec<Attachment> = writers.collect();
    for record in node.store.volumes().await? {
        if let Some(writer) = writers.iter().find(|writer| writer.volume == record.id) {
            volumes::settle_size(node, &record, writer).await;
        }
        let whole = record.state == VolumeState::Ready;
        if whole || volumes::remove(node, &record.id).await.is_err() {
            known.insert(record.id.as_str().to_owned());
        }
    }
    Ok(known)
}

fn start(node: &Arc<Node>, record: Record) {
    let sandbox = Sandbox::start_driver(node, record, Begin::Recover);
    if sandbox.is_for_build() {
        // Its build has ended with the daemon that did it.
        tokio::spawn(async move {
            if let Err(error) = sandbox.destroy().await
                && error.kind != Kind::SandboxNotFound
            {
                tracing::warn!(%error, "a build's sandbox stays until the next start");
            }
        });
    }
}

/// Kills monitors of ours that no record speaks of: their daemon was killed between starting them
/// and writing that down.
async fn kill_strays(node: &Arc<Node>, running: &HashSet<i32>) -> Result<()> {
    let prefix = node.marker("");
    let marked = blocking(move || Ok(vmm::marked(&prefix)?)).await?;
    for (pid, marker) in marked {
        if running.contains(&pid) {
            continue;
        }
        let Ok(start_time) = base::process::start_time(pid) else { continue };
        if let Ok(Some(stray)) = Process::adopt(pid, start_time) {
            match marker.contains(spares::PREFIX) {
                true => tracing::debug!(pid, "ending a monitor that nobody used"),
                false => tracing::warn!(pid, marker, "killing a VM that no sandbox owns"),
            }
            stray.kill_and_wait().await;
        }
    }
    Ok(())
}

/// Keeps directories without a row out of the way.
async fn set_aside(directory: PathBuf, known: HashSet<String>) -> Result<()> {
    blocking(move || {
        for entry in fs_err::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&name) {
                continue;
            }
            // A row is written before its directory is made and removed after it is gone, so
            // without a row this can only be what an older copy of the store does not know.
            let aside = entry.path().with_file_name(format!("{LOST}{name}"));
            if !name.starts_with(LOST) {
                tracing::warn!(from = name, "a directory without a row is set aside");
                fs_err::rename(entry.path(), aside)?;
                files::sync_directory(&directory)?;
            }
        }
        Ok(())
    })
    .await
}
