//! What the data directory takes, and giving back what nobody needs.
//!
//! Invariant: what is removed is needed by no directory of a sandbox or a named snapshot, whatever the
//! store says, and can be made again.

mod files;
mod pins;
mod prune;
mod references;

use std::{collections::HashSet, sync::Arc};

use disk::image::{self, Collector};

pub(crate) use self::pins::{Pin, Pins};
use self::{
    files::Files,
    pins::Pinned,
    prune::{Aside, Present, Victim},
};
use crate::{
    Orchestrator, Result, build,
    node::{Node, blocking},
};

/// What takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageKind {
    /// What images themselves consist of.
    Images,
    /// What images have in common.
    Layers,
    /// Recordings that sandboxes are copied from.
    Templates,
    /// Kernels and what guests boot with.
    Kernels,
    /// Disks and memories of sandboxes.
    Sandboxes,
    /// Named snapshots.
    Snapshots,
    /// Volumes.
    Volumes,
    /// Backups of volumes that are being made or sent.
    Backups,
    /// What an older copy of the store did not know, set aside.
    Lost,
}

/// What one kind takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageUse {
    /// The kind.
    pub kind: StorageKind,
    /// How many there are.
    pub count: u64,
    /// What they take, bytes; what two kinds share counts for both.
    pub bytes: u64,
    /// What of it a prune would free, bytes.
    pub reclaimable: u64,
}

/// What everything takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// One entry a kind.
    pub uses: Vec<StorageUse>,
    /// All of it, bytes; what is shared counts once.
    pub bytes: u64,
    /// What is free on the file system, bytes.
    pub free: u64,
}

/// Something that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// What it is.
    pub kind: StorageKind,
    /// What it is called.
    pub name: String,
}

/// What a prune does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// What was removed, or would be.
    pub removed: Vec<Pruned>,
    /// What that frees, bytes.
    pub bytes: u64,
}

impl Orchestrator {
    /// What the data directory takes, by kind.
    ///
    /// # Errors
    /// [`Kind::StorageUnclear`](crate::Kind::StorageUnclear) if a directory does not say what it depends on.
    pub async fn storage(&self) -> Result<Storage> {
        let (node, collecting) = (Arc::clone(&self.node), Collecting::begin(&self.node).await?);
        blocking(move || {
            let victims = collecting.victims(&node, &node.pins.hold(), false)?;
            drop(collecting);
            measure(&node, &victims)
        })
        .await
    }

    /// Removes what nobody needs; with `all` also templates that the next create would take, which has to
    /// record them again then. With `dry_run` only says so.
    ///
    /// # Errors
    /// As [`Self::storage`], in which case nothing is removed.
    pub async fn prune(&self, all: bool, dry_run: bool) -> Result<Prune> {
        let node = Arc::clone(&self.node);
        let pruning = tokio::spawn(async move {
            if !dry_run {
                build::forget_steps(&node, all).await?;
            }
            let collecting = Collecting::begin(&node).await?;
            blocking(move || {
                let (victims, bytes, aside) = choose(&node, &collecting, all, dry_run)?;
                drop(collecting);
                aside.remove()?;
                let removed = victims.into_iter();
                let removed = removed.map(|Victim { kind, name, .. }| Pruned { kind, name });
                Ok(Prune { removed: removed.collect(), bytes })
            })
            .await
        });
        pruning.await.map_err(|error| crate::Error::internal("a task failed", error))?
    }
}

/// Chooses what goes and takes it out of everybody's sight, while nobody can begin to use it.
fn choose(
    node: &Node,
    collecting: &Collecting,
    all: bool,
    dry_run: bool,
) -> Result<(Vec<Victim>, u64, Aside)> {
    let pinned = node.pins.hold();
    let victims = collecting.victims(node, &pinned, all)?;
    let mut files = Files::default();
    victims.iter().try_for_each(|victim| files.add(&victim.path))?;
    let mut aside = Aside::default();
    if !dry_run {
        victims.iter().try_for_each(|victim| aside.take(node, victim))?;
    }
    Ok((victims, files.freed(), aside))
}

/// The right to collect, and what the store needs.
struct Collecting {
    /// Absent while somebody makes an image: all of them stay then.
    collector: Option<Collector>,
    cached: HashSet<String>,
}

impl Collecting {
    async fn begin(node: &Node) -> Result<Self> {
        let data = node.layout.data().to_owned();
        // First of all: an image that is made later would be in no list that was read before.
        let collector = blocking(move || Ok(image::collector(&data)?)).await?;
        Ok(Self { collector, cached: node.store.cached_digests().await? })
    }

    fn victims(&self, node: &Node, pinned: &Pinned<'_>, all: bool) -> Result<Vec<Victim>> {
        let images = image::list(node.layout.data())?;
        let mut images: HashSet<String> =
            images.iter().map(|image| image.digest().to_owned()).collect();
        images.extend(node.store.image_digests());
        images.extend(self.cached.iter().cloned());
        let engine = node.known_engine().map(|engine| engine.qemu.fingerprint());
        let present = Present { engine, images, stocked: node.spares.templates() };
        prune::victims(node, &present, pinned, self.collector.as_ref(), all)
    }
}

fn measure(node: &Node, victims: &[Victim]) -> Result<Storage> {
    let data = node.layout.data();
    let layout = &node.layout;
    let kinds = [
        (StorageKind::Images, vec![data.join("images/content")]),
        (StorageKind::Layers, vec![data.join("images/layers")]),
        (StorageKind::Templates, vec![layout.templates()]),
        (StorageKind::Kernels, vec![data.join("kernels"), data.join("initramfs")]),
        (StorageKind::Sandboxes, vec![layout.sandboxes()]),
        (StorageKind::Snapshots, vec![layout.snapshots()]),
        (StorageKind::Volumes, vec![layout.volumes()]),
        (StorageKind::Backups, vec![layout.backups()]),
        (StorageKind::Lost, vec![layout.sandboxes(), layout.snapshots(), layout.volumes()]),
    ];
    let mut uses = Vec::new();
    let mut all = Vec::new();
    for (kind, parents) in kinds {
        let mut files = Files::default();
        let mut count = 0;
        for entry in parents.iter().filter(|parent| parent.is_dir()).map(fs_err::read_dir) {
            for entry in entry? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let lost = name.starts_with(crate::recovery::LOST);
                if lost == (kind == StorageKind::Lost) && is_one(kind, &name) {
                    count += 1;
                    files.add(&entry.path())?;
                }
            }
        }
        let reclaimable = prune::freed(victims, kind)?;
        uses.push(StorageUse { kind, count, bytes: files.bytes(), reclaimable });
        all.push(files);
    }
    let free = base::files::free_bytes(data)?;
    Ok(Storage { uses, bytes: Files::bytes_of_all(&all), free })
}

/// Whether what is called that is one of its kind, and not what leads to them.
fn is_one(kind: StorageKind, name: &str) -> bool {
    let leads = match kind {
        StorageKind::Templates => name == "keys",
        StorageKind::Kernels => name == "current",
        _ => false,
    };
    !leads && !name.starts_with('.')
}
