//! Named snapshots.

use std::{
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::Path,
    sync::Arc,
};

use base::{
    clock, fault, files,
    ids::{Name, SandboxId, SnapshotId},
};
use tokio::sync::oneshot;

use super::{allowed, copy_of, spec_of_copy};
use crate::{
    Error, Kind, Orchestrator, Result,
    driver::{Begin, Copied, Memory, Seed},
    facade::Progress,
    model::{Policy, SandboxView, SnapshotKind, SnapshotTaken, SnapshotView, User},
    node::{Node, blocking},
    record::{Likeness, SnapshotRecord, SnapshotState},
    sandbox::Sandbox,
    sandbox_dir::{Readers, SandboxDir},
    template,
};

/// The state of snapshots that can be used.
const READY: [SnapshotState; 1] = [SnapshotState::Ready];

impl Orchestrator {
    /// Keeps what a sandbox is now under a name. It goes on after a moment. Goes on to its end even
    /// if the caller leaves.
    ///
    /// # Errors
    /// [`Kind::SnapshotExists`], [`Kind::QuotaSnapshots`]; if it cannot be written nothing of it
    /// stays and the sandbox goes on.
    pub async fn take_snapshot(
        &self,
        owner: &User,
        sandbox: &Sandbox,
        name: &str,
        kind: SnapshotKind,
    ) -> Result<SnapshotTaken> {
        let source = sandbox.view();
        let record = SnapshotRecord {
            id: SnapshotId::random(),
            owner: owner.id.clone(),
            name: name.parse()?,
            kind,
            source: source.name,
            spec: Arc::new(spec_of_copy(source.spec, Readers::Alone)),
            likeness: Likeness {
                sandbox_id: source.id,
                identity: sandbox.record().identity.clone(),
            },
            state: SnapshotState::Making,
            created_at: clock::unix_seconds(),
        };
        let (node, sandbox) = (Arc::clone(&self.node), sandbox.clone());
        let limit = owner.limits.snapshots;
        let taking = tokio::spawn(async move {
            node.store.insert_snapshot(&record, limit).await?;
            match take(&node, &sandbox, &record).await {
                Ok(copied) => {
                    Ok(SnapshotTaken { snapshot: view(&node, record).await?, stall: copied.stall })
                }
                Err(error) => {
                    let _ = remove(&node, &record.id).await;
                    Err(error)
                }
            }
        });
        taking.await.map_err(|error| Error::internal("a task failed", error))?
    }

    /// The owner's snapshots by name.
    pub async fn snapshots(&self, owner: &User) -> Result<Vec<SnapshotView>> {
        let mut views = Vec::new();
        for record in those(&self.node, owner, &READY).await? {
            views.push(view(&self.node, record).await?);
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// One of the owner's snapshots by name or id.
    ///
    /// # Errors
    /// [`Kind::SnapshotNotFound`], also for what belongs to somebody else.
    pub async fn snapshot(&self, owner: &User, name_or_id: &str) -> Result<SnapshotView> {
        view(&self.node, find(&self.node, owner, name_or_id, &READY).await?).await
    }

    /// Removes a snapshot. What was made of it goes on.
    ///
    /// # Errors
    /// [`Kind::SnapshotNotFound`].
    pub async fn delete_snapshot(&self, owner: &User, name_or_id: &str) -> Result<SnapshotView> {
        // One that could be removed only in part can be removed again.
        let removable = [SnapshotState::Ready, SnapshotState::Removing];
        let record = find(&self.node, owner, name_or_id, &removable).await?;
        let (node, id) = (Arc::clone(&self.node), record.id.clone());
        let shown = view(&node, record).await?;
        let removing = tokio::spawn(async move {
            node.store.update_snapshot(&id, SnapshotState::Removing).await?;
            remove(&node, &id).await
        });
        removing.await.map_err(|error| Error::internal("a task failed", error))??;
        Ok(shown)
    }

    /// Makes a sandbox that goes on where the snapshot was taken. Any number can be made of one.
    ///
    /// # Errors
    /// As for a create, and those of a snapshot that does not verify or does not fit this host.
    pub async fn resume_snapshot(
        &self,
        owner: &User,
        snapshot: &str,
        name: Option<String>,
        progress: Progress,
    ) -> Result<SandboxView> {
        let from = find(&self.node, owner, snapshot, &READY).await?;
        allowed(&from.spec, owner.limits)?;
        self.node.engine().await?;
        let name: Name = match name {
            Some(name) => name.parse()?,
            None => super::fork::made_up(&from.name)?,
        };
        let record = copy_of(&owner.id, name, &from.spec, Policy::default());
        let naming = Arc::clone(&self.node.naming).lock_owned().await;
        let (node, limit) = (Arc::clone(&self.node), owner.limits.sandboxes);
        let called = from.name.clone();
        let begun = tokio::spawn(async move {
            let record = node.store.insert_sandbox(&record, limit).await?;
            drop(naming);
            if let Err(error) = share(&node, &from, &record.id).await {
                super::fork::forget(&node, &record.id).await;
                return Err(error);
            }
            let memory = match from.kind {
                SnapshotKind::Memory => Memory::Directory,
                SnapshotKind::Disk => Memory::None,
            };
            let seed = Seed { likeness: from.likeness, memory };
            let (reply, born) = oneshot::channel();
            let begin = Begin::Copy { seed, progress, reply };
            let sandbox = Sandbox::start_driver(&node, record, begin);
            match born.await {
                Ok(born) => born.map(|()| sandbox.view()),
                Err(_) => Err(Error::new(Kind::Internal, "the sandbox's driver ended")),
            }
        });
        let begun = begun.await.map_err(|error| Error::internal("a task failed", error))?;
        begun.map_err(|error| useless(error, &called))
    }
}

/// Makes a copy of a snapshot's directory for a new sandbox.
async fn share(node: &Node, from: &SnapshotRecord, id: &SandboxId) -> Result<()> {
    let place = node.layout.snapshot(&from.id);
    let directory = SandboxDir::with_volumes(place, &node.layout, &from.spec.volumes);
    let (kind, target) = (from.kind, node.layout.sandbox(id));
    let shared = blocking(move || {
        let copy = match kind {
            SnapshotKind::Memory => {
                let snapshot = directory.snapshot()?.ok_or_else(no_memory)?;
                directory.copy_with_snapshot(target, &snapshot, Readers::Alone)?
            }
            SnapshotKind::Disk => {
                directory.copy_to(target, &directory.sealed_layers()?, Readers::Alone)?
            }
        };
        copy.flush_entries()
    });
    let shared = shared.await;
    // Whoever deletes it says so before the first file goes, so if it is still there now, all of
    // it was.
    let still = node.store.snapshots().await?;
    if !still.iter().any(|r| r.id == from.id && r.state == SnapshotState::Ready) {
        return Err(not_found(from.name.as_str()));
    }
    shared
}

/// What the owner of a snapshot can do that cannot be used.
fn useless(error: Error, name: &Name) -> Error {
    match error.kind {
        Kind::SnapshotCorrupt => error.hint(format!(
            "nothing can be made of it any more; what was made of it before is not affected. \
             Remove it: bhatti snapshot delete {name}"
        )),
        Kind::SnapshotIncompatible => error.hint(format!(
            "{name} can be resumed on a host that is like the one where it was taken; take another \
             one for this host"
        )),
        _ => error,
    }
}

fn no_memory() -> Error {
    Error::new(Kind::SnapshotCorrupt, "the snapshot holds no memory")
}

/// Copies the sandbox and writes what is to be kept.
async fn take(node: &Arc<Node>, sandbox: &Sandbox, record: &SnapshotRecord) -> Result<Copied> {
    fault::point("snapshot.recorded")?;
    let place = node.layout.snapshot(&record.id);
    let temporary = files::temporary_sibling(&place);
    let copied = sandbox.copy(record.kind, vec![temporary.clone()], Readers::Alone).await;
    let written = match &copied {
        Ok(copied) => {
            let (memory, temporary) = (copied.memory.clone(), temporary.clone());
            let volumes = &record.spec.volumes;
            let directory = SandboxDir::with_volumes(temporary.clone(), &node.layout, volumes);
            blocking(move || {
                if let Some(captured) = memory {
                    let snapshot = directory.begin_snapshot()?;
                    let facts = captured.facts.clone();
                    write_new(&captured.devices, &snapshot.join("devices"))?;
                    let tag = template::tag(&facts.memory_base);
                    captured.memory.save(&tag, &snapshot.join("pages"))?;
                    directory.commit_snapshot(&snapshot, facts)?;
                }
                directory.seal_layers()?;
                directory.flush()?;
                fault::point("snapshot.written")?;
                files::commit_directory(&temporary, &place)?;
                Ok(fault::point("snapshot.committed")?)
            })
            .await
        }
        Err(_) => Ok(()),
    };
    let done = match written {
        Ok(()) if copied.is_ok() => {
            node.store.update_snapshot(&record.id, SnapshotState::Ready).await
        }
        other => other,
    };
    if (copied.is_err() || done.is_err())
        && let Err(error) = files::remove_any(&temporary)
    {
        tracing::warn!(%error, "a failed snapshot could not be removed");
    }
    done?;
    copied
}

/// Writes what a memory file holds to a new file, flushed.
fn write_new(from: &OwnedFd, path: &Path) -> Result<()> {
    let from = std::fs::File::from(from.try_clone()?);
    let length = usize::try_from(from.metadata()?.len()).unwrap_or(usize::MAX);
    let mut content = vec![0; length];
    from.read_exact_at(&mut content, 0)?;
    let to = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?;
    fault::point("write.devices")?;
    to.file().write_all_at(&content, 0)?;
    Ok(to.sync_all()?)
}

/// Removes what there is of a snapshot. What cannot be removed now keeps its row, so that the next
/// start of the daemon tries again.
pub(crate) async fn remove(node: &Node, id: &SnapshotId) -> Result<()> {
    let place = node.layout.snapshot(id);
    let removed = match blocking(move || Ok(files::remove_any(&place)?)).await {
        Ok(()) => node.store.delete_snapshot(id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &removed {
        tracing::error!(snapshot = %id, error = base::chain(error),
            "a snapshot is not wholly removed yet");
    }
    removed
}

/// The owner's snapshots that are in one of these states.
async fn those(node: &Node, owner: &User, states: &[SnapshotState]) -> Result<Vec<SnapshotRecord>> {
    let mut records = node.store.snapshots().await?;
    records.retain(|r| r.owner == owner.id && states.contains(&r.state));
    Ok(records)
}

async fn find(
    node: &Node,
    owner: &User,
    name_or_id: &str,
    states: &[SnapshotState],
) -> Result<SnapshotRecord> {
    let records = those(node, owner, states).await?;
    let by_name = records.iter().position(|r| r.name.as_str() == name_or_id);
    let found = by_name.or_else(|| records.iter().position(|r| r.id.as_str() == name_or_id));
    let found = found.and_then(|index| records.into_iter().nth(index));
    found.ok_or_else(|| not_found(name_or_id))
}

fn not_found(name_or_id: &str) -> Error {
    let shown: String = name_or_id.chars().take(80).collect();
    Error::new(Kind::SnapshotNotFound, format!("there is no snapshot {shown:?}"))
        .hint("see what there is: bhatti snapshot list")
}

async fn view(node: &Node, record: SnapshotRecord) -> Result<SnapshotView> {
    let directory = SandboxDir::at(node.layout.snapshot(&record.id));
    // One that was deleted this moment takes nothing.
    let usage = blocking(move || Ok(directory.usage().unwrap_or_default())).await?;
    Ok(SnapshotView {
        id: record.id,
        name: record.name,
        owner: record.owner,
        kind: record.kind,
        source: record.source,
        spec: Arc::unwrap_or_clone(record.spec),
        bytes: usage.all,
        own_bytes: usage.own,
        created_at: record.created_at,
    })
}
