//! What people do with volumes.

use std::sync::Arc;

use base::{
    clock, fault, files,
    ids::{Name, VolumeId},
};

use crate::{
    Error, Kind, Orchestrator, Result,
    chain::Chain,
    model::{AttachmentView, User, VolumeRequest, VolumeState, VolumeUse, VolumeView},
    node::{Node, blocking},
    record::{Attachment, VolumeRecord},
    sandbox::Sandbox,
    sandbox_dir,
};

/// The smallest volume, MiB.
const SIZE_MIN_MIB: u64 = 16;
/// The largest, MiB: what a guest believes a volume to have at most.
const SIZE_MAX_MIB: u64 = 2 << 20;

/// How often a copy is tried of a volume whose sandbox vanishes meanwhile.
const ATTEMPTS: usize = 3;

impl Orchestrator {
    /// Makes an empty volume. Goes on to its end even if the caller leaves.
    ///
    /// # Errors
    /// [`Kind::VolumeExists`], [`Kind::QuotaVolumes`], [`Kind::VolumeSizeInvalid`].
    pub async fn create_volume(
        &self,
        owner: &User,
        name: &str,
        size_mib: u64,
    ) -> Result<VolumeView> {
        check_size(size_mib)?;
        let record = new_record(owner, name, size_mib)?;
        self.make(owner, record, |node, record| async move {
            let place = node.layout.volume(&record.id);
            blocking(move || {
                let temporary = files::temporary_sibling(&place);
                let made = (|| {
                    fs_err::create_dir(&temporary)?;
                    let raw = Chain::at(temporary.clone()).raw();
                    disk::scratch::create_volume(&raw, record.size_mib)?;
                    fs_err::File::open(raw)?.sync_all()?;
                    fault::point("volume.written")?;
                    Ok(files::commit_directory(&temporary, &place)?)
                })();
                if made.is_err() {
                    let _ = files::remove_any(&temporary);
                }
                made
            })
            .await
        })
        .await
    }

    /// Makes a volume that holds what another holds now, and shares it. Goes on to its end even if the
    /// caller leaves.
    ///
    /// # Errors
    /// As for [`create_volume`](Self::create_volume), and [`Kind::VolumeNotFound`].
    pub async fn clone_volume(&self, owner: &User, from: &str, name: &str) -> Result<VolumeView> {
        let from = find(&self.node, owner, from).await?;
        let record = new_record(owner, name, from.size_mib)?;
        self.make(owner, record, |node, record| async move {
            let place = node.layout.volume(&record.id);
            let temporary = files::temporary_sibling(&place);
            let copied = copy(&node, &from, &temporary).await;
            let done = match copied {
                Ok(()) => {
                    let from = temporary.clone();
                    blocking(move || {
                        fault::point("volume.copied")?;
                        Ok(files::commit_directory(&from, &place)?)
                    })
                    .await
                }
                failed => failed,
            };
            if done.is_err() {
                let _ = files::remove_any(&temporary);
            }
            done
        })
        .await
    }

    /// Keeps the row of a volume, has it made and shows it.
    pub(crate) async fn make<F: Future<Output = Result<()>> + Send>(
        &self,
        owner: &User,
        record: VolumeRecord,
        work: impl FnOnce(Arc<Node>, VolumeRecord) -> F + Send + 'static,
    ) -> Result<VolumeView> {
        let (node, limit) = (Arc::clone(&self.node), owner.limits.volume_mib);
        let making = tokio::spawn(async move {
            node.store.insert_volume(&record, limit).await?;
            let made = async {
                fault::point("volume.recorded")?;
                work(Arc::clone(&node), record.clone()).await?;
                fault::point("volume.made")?;
                node.store.update_volume(&record.id, VolumeState::Ready).await
            };
            match made.await {
                Ok(()) => view(&node, record, Vec::new()).await,
                Err(error) => {
                    let _ = remove(&node, &record.id).await;
                    Err(error)
                }
            }
        });
        let made = making.await.map_err(|error| Error::internal("a task failed", error))??;
        Ok(VolumeView { state: VolumeState::Ready, ..made })
    }

    /// The owner's volumes by name.
    pub async fn volumes(&self, owner: &User) -> Result<Vec<VolumeView>> {
        let mut records = self.node.store.volumes().await?;
        records.retain(|record| record.owner == owner.id);
        let attachments = self.node.store.attachments().await?;
        let mut views = Vec::with_capacity(records.len());
        for record in records {
            let users = of(&attachments, &record.id);
            views.push(view(&self.node, record, users).await?);
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// One of the owner's volumes by name or id.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`], also for what belongs to somebody else.
    pub async fn volume(&self, owner: &User, name_or_id: &str) -> Result<VolumeView> {
        let record = find(&self.node, owner, name_or_id).await?;
        let users = of(&self.node.store.attachments().await?, &record.id);
        view(&self.node, record, users).await
    }

    /// Removes a volume and all that is on it. Clones, forks and snapshots keep what they share.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`]; [`Kind::VolumeInUse`] names a sandbox that has it, running or not.
    pub async fn delete_volume(&self, owner: &User, name_or_id: &str) -> Result<VolumeView> {
        let record = find(&self.node, owner, name_or_id).await?;
        let (node, id) = (Arc::clone(&self.node), record.id.clone());
        let shown = view(&node, record, Vec::new()).await?;
        let removing = tokio::spawn(async move {
            node.store.update_volume(&id, VolumeState::Removing).await?;
            fault::point("volume.removing")?;
            remove(&node, &id).await
        });
        removing.await.map_err(|error| Error::internal("a task failed", error))??;
        Ok(VolumeView { state: VolumeState::Removing, ..shown })
    }

    /// Makes a volume larger. If nobody has it, its file system becomes larger when it is next mounted;
    /// if a running sandbox writes to it, now.
    ///
    /// # Errors
    /// [`Kind::VolumeSizeInvalid`] if it is larger already, [`Kind::QuotaVolumes`],
    /// [`Kind::VolumeInUse`] while it is read, [`Kind::WrongState`] if its sandbox is stopped.
    pub async fn resize_volume(
        &self,
        owner: &User,
        name_or_id: &str,
        size_mib: u64,
    ) -> Result<VolumeView> {
        check_size(size_mib)?;
        let record = find(&self.node, owner, name_or_id).await?;
        if size_mib < record.size_mib {
            let message =
                format!("volume {} has {} MB and cannot shrink", record.name, record.size_mib);
            return Err(Error::new(Kind::VolumeSizeInvalid, message)
                .hint("make a smaller volume and copy the files in a sandbox that has both"));
        }
        let (node, limit) = (Arc::clone(&self.node), owner.limits.volume_mib);
        let resizing = tokio::spawn(async move {
            let users = of(&node.store.attachments().await?, &record.id);
            let writer = users.into_iter().find(|user| !user.read_only);
            node.store.resize_volume(&record.id, size_mib, limit, writer.clone()).await?;
            let Some(writer) = writer else { return Ok(()) };
            let bytes = size_mib << 20;
            let grown = async {
                fault::point("volume.resized")?;
                let sandbox = node.registry.find(&record.owner, writer.sandbox.as_str());
                let sandbox = sandbox.ok_or_else(|| gone(&writer))?;
                sandbox.grow_volume(writer.slot, bytes).await
            };
            let grown = grown.await;
            let chain = Chain::at(node.layout.volume(&record.id));
            if grown.is_err() && chain.bytes().is_ok_and(|there| there < bytes) {
                let back = record.size_mib;
                node.store.resize_volume(&record.id, back, u64::MAX, Some(writer)).await?;
            }
            grown
        });
        resizing.await.map_err(|error| Error::internal("a task failed", error))??;
        self.volume(owner, name_or_id).await
    }

    /// Which volumes are meant by a request.
    ///
    /// # Errors
    /// [`Kind::VolumeNotFound`] says how to make one.
    pub(crate) async fn volumes_of(
        &self,
        owner: &User,
        requests: Vec<VolumeRequest>,
    ) -> Result<Vec<VolumeUse>> {
        let mut found = Vec::with_capacity(requests.len());
        for VolumeRequest { name, target, read_only } in super::check(requests)? {
            let record =
                find(&self.node, owner, &name).await.map_err(|error| match error.kind {
                    Kind::VolumeNotFound => {
                        error.hint(format!("make it: bhatti volume create {name} --size 1G"))
                    }
                    _ => error,
                })?;
            let VolumeRecord { id: volume, name, .. } = record;
            found.push(VolumeUse { volume, name, target, read_only, copied_at: None });
        }
        Ok(found)
    }
}

/// Makes the directory `into` share what a volume holds, whole.
pub(crate) async fn copy(node: &Node, from: &VolumeRecord, into: &std::path::Path) -> Result<()> {
    let mut last = Error::new(Kind::VolumeInUse, format!("volume {} is in use", from.name));
    for _ in 0..ATTEMPTS {
        let Some((sandbox, slot)) = copy_at_rest(node, from, into).await? else { return Ok(()) };
        match sandbox.copy_volume(slot, into.to_owned()).await {
            Err(error) if error.kind == Kind::SandboxNotFound => last = error,
            copied => return copied,
        }
    }
    Err(last)
}

/// Does the same with one that nobody writes to; answers who does otherwise, and as which of its
/// volumes.
async fn copy_at_rest(
    node: &Node,
    from: &VolumeRecord,
    into: &std::path::Path,
) -> Result<Option<(Sandbox, u32)>> {
    // Whoever would write to it waits until the links show that it is shared.
    let _alone = node.volumes.lock().await;
    if node.store.volume(&from.id).await?.state != VolumeState::Ready {
        return Err(not_found(from.name.as_str()));
    }
    let users = of(&node.store.attachments().await?, &from.id);
    if let Some(writer) = users.iter().find(|user| !user.read_only) {
        let sandbox = node.registry.find(&from.owner, writer.sandbox.as_str());
        return sandbox.map(|sandbox| Some((sandbox, writer.slot))).ok_or_else(|| gone(writer));
    }
    let (chain, into) = (Chain::at(node.layout.volume(&from.id)), into.to_owned());
    blocking(move || {
        chain.link_to(&into, &chain.layers()?)?;
        Chain::at(into).flush()
    })
    .await?;
    Ok(None)
}

/// Removes what there is of a volume. What cannot be removed now keeps its row, so that the next start of
/// the daemon tries again.
pub(crate) async fn remove(node: &Node, id: &VolumeId) -> Result<()> {
    let place = node.layout.volume(id);
    let _alone = node.volumes.lock().await;
    let removing = move || {
        files::remove_any(&place)?;
        Ok(fault::point("volume.removed")?)
    };
    let removed = match blocking(removing).await {
        Ok(()) => node.store.delete_volume(id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &removed {
        tracing::error!(volume = %id, error = base::chain(error),
            "a volume is not wholly removed yet");
    }
    removed
}

/// Takes back a size that the disk did not get: the daemon died before, or could not say so.
pub(crate) async fn settle_size(node: &Node, volume: &VolumeRecord, writer: &Attachment) {
    let chain = Chain::at(node.layout.volume(&volume.id));
    let Ok(mib) = chain.bytes().map(|bytes| bytes >> 20) else { return };
    if mib >= volume.size_mib {
        return;
    }
    let settled = node.store.resize_volume(&volume.id, mib, u64::MAX, Some(writer.clone())).await;
    if let Err(error) = settled {
        tracing::warn!(volume = %volume.name, error = base::chain(&error),
            "a volume is smaller than it says");
    }
}

pub(crate) fn new_record(owner: &User, name: &str, size_mib: u64) -> Result<VolumeRecord> {
    Ok(VolumeRecord {
        id: VolumeId::random(),
        owner: owner.id.clone(),
        name: name.parse::<Name>()?,
        size_mib,
        state: VolumeState::Making,
        created_at: clock::unix_seconds(),
    })
}

fn check_size(mib: u64) -> Result<()> {
    if (SIZE_MIN_MIB..=SIZE_MAX_MIB).contains(&mib) {
        return Ok(());
    }
    let message =
        format!("a volume of {mib} MB is not possible: {SIZE_MIN_MIB} to {SIZE_MAX_MIB} MB");
    Err(Error::new(Kind::VolumeSizeInvalid, message))
}

pub(crate) async fn find(node: &Node, owner: &User, name_or_id: &str) -> Result<VolumeRecord> {
    let mut records = node.store.volumes().await?;
    records.retain(|record| record.owner == owner.id);
    let by_name = records.iter().position(|record| record.name.as_str() == name_or_id);
    let found =
        by_name.or_else(|| records.iter().position(|record| record.id.as_str() == name_or_id));
    let found = found.and_then(|index| records.into_iter().nth(index));
    found.ok_or_else(|| not_found(name_or_id))
}

fn not_found(name_or_id: &str) -> Error {
    let shown: String = name_or_id.chars().take(80).collect();
    Error::new(Kind::VolumeNotFound, format!("there is no volume {shown:?}"))
        .hint("see what there is: bhatti volume list")
}

fn gone(user: &Attachment) -> Error {
    Error::new(Kind::SandboxNotFound, format!("sandbox {} does not exist any more", user.name))
}

pub(crate) fn of(attachments: &[Attachment], id: &VolumeId) -> Vec<Attachment> {
    attachments.iter().filter(|attachment| attachment.volume == *id).cloned().collect()
}

async fn view(node: &Node, record: VolumeRecord, users: Vec<Attachment>) -> Result<VolumeView> {
    let place = node.layout.volume(&record.id);
    // One that is not made yet or was deleted this moment takes nothing.
    let usage = blocking(move || Ok(sandbox_dir::usage(&place).unwrap_or_default())).await?;
    let attachment = |user: Attachment| AttachmentView {
        sandbox: user.sandbox,
        name: user.name,
        target: user.target,
        read_only: user.read_only,
    };
    Ok(VolumeView {
        id: record.id,
        name: record.name,
        owner: record.owner,
        size_mib: record.size_mib,
        state: record.state,
        attachments: users.into_iter().map(attachment).collect(),
        bytes: usage.all,
        own_bytes: usage.own,
        created_at: record.created_at,
    })
}
