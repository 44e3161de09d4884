//! A sandbox's directory: where it comes from, its disk layers and its memory snapshots. A named
//! snapshot is a directory of the same kind that no VM uses, and so is a template's.
//!
//! ```text
//! origin.json          what it was made of; never changes
//! layer-<n>.qcow2      its disk over the template's, lowest number first; shared with its copies
//! volume-<slot>/       disk.raw, layer-<n>.qcow2: what only it has of a volume, as of when it was copied
//! snapshot-<n>/        manifest.json, devices, pages
//! ```
//! Invariant: a snapshot names the layers that belong to it, and these are never written again:
//! waking adds a layer. So memory can never be restored over a disk that is newer than itself, and
//! a snapshot stays good until the next one is committed.

mod generations;
mod layers;
pub(crate) mod sealed;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base::files;
use serde::{Deserialize, Serialize};

pub(crate) use generations::{Facts, Snapshot, damaged};
pub(crate) use layers::{Layers, Readers};

use self::{
    generations::SnapshotManifest,
    layers::{OfLayers, VolumeDir},
};
use crate::{
    Error, Kind, Result,
    chain::{self, BACKUP, Chain},
};

const FORMAT: u32 = 2;
const ORIGIN: &str = "origin.json";

/// What a sandbox was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub format: u32,
    /// The template whose disk lies below the sandbox's own.
    pub template: String,
    pub image_digest: String,
    pub kernel_id: String,
}

impl Origin {
    pub(crate) fn new(template: &str, image_digest: &str, kernel_id: &str) -> Self {
        Self {
            format: FORMAT,
            template: template.to_owned(),
            image_digest: image_digest.to_owned(),
            kernel_id: kernel_id.to_owned(),
        }
    }
}

/// What a directory takes on disk, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// All of its files.
    pub all: u64,
    /// Those that it shares with nobody.
    pub own: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDir {
    path: PathBuf,
    /// By their slots.
    volumes: Vec<VolumeDir>,
}

impl SandboxDir {
    /// The directory at `path` of what has no volumes.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, volumes: Vec::new() }
    }

    /// Makes the directory, without any layers.
    pub(crate) fn create(&self, origin: &Origin) -> Result<()> {
        fs_err::create_dir(&self.path)?;
        sealed::write(&self.path.join(ORIGIN), origin)
    }

    /// Makes the directory around the disk of another. Says which layers the disk has.
    pub(crate) fn create_around(&self, origin: &Origin, other: &Self) -> Result<Layers> {
        self.create(origin)?;
        let (from, to) = (other.disk(), self.disk());
        let disk = from.layers()?;
        for number in &disk {
            fs_err::rename(from.layer(*number), to.layer(*number))?;
        }
        Ok(Layers { disk, ..Layers::default() })
    }

    pub(crate) fn origin(&self) -> Result<Origin> {
        sealed::read(&self.path.join(ORIGIN)).map_err(|error| {
            let message = format!("what the disk was made of ({ORIGIN}) cannot be read");
            Error::new(Kind::SnapshotCorrupt, message).hint(BACKUP).caused_by(error)
        })
    }

    /// A new directory at `path` that shares these layers. Not flushed. What volumes the copy has is
    /// not known to the result.
    pub(crate) fn copy_to(&self, path: PathBuf, layers: &Layers, readers: Readers) -> Result<Self> {
        fs_err::create_dir(&path)?;
        // It never changes, so it is shared, too.
        fs_err::hard_link(self.path.join(ORIGIN), path.join(ORIGIN))?;
        self.link_layers(&path, layers, readers)?;
        Ok(Self::at(path))
    }

    /// A new directory at `path` that shares a snapshot and its layers. Not flushed.
    pub(crate) fn copy_with_snapshot(
        &self,
        path: PathBuf,
        snapshot: &Snapshot,
        readers: Readers,
    ) -> Result<Self> {
        let copy = self.copy_to(path, &snapshot.manifest.facts.layers, readers)?;
        self.link_snapshot(&copy, snapshot)?;
        Ok(copy)
    }

    /// Has on the disk which files the directory holds.
    pub(crate) fn flush_entries(&self) -> Result<()> {
        for volume in self.copied_volumes()? {
            files::sync_directory(volume.directory())?;
        }
        files::sync_directory(&self.path)?;
        Ok(files::sync_parent(&self.path)?)
    }

    /// Has everything below on the disk, as far as it is not yet.
    pub(crate) fn flush(&self) -> Result<()> {
        self.copied_volumes()?.iter().try_for_each(Chain::flush)?;
        self.disk().flush()
    }

    /// What it takes on disk.
    pub(crate) fn usage(&self) -> Result<Usage> {
        usage(&self.path)
    }

    /// Removes what a crash left half-made or half-removed.
    pub(crate) fn sweep(&self) -> Result<()> {
        files::sweep_temporary(&self.path)?;
        let copied = self.copied_volumes()?;
        for volume in copied.iter().chain(self.attached()) {
            files::sweep_temporary(volume.directory())?;
        }
        self.remove_older()
    }

    /// Removes everything.
    pub(crate) fn remove(&self) -> Result<()> {
        Ok(files::remove_any(&self.path)?)
    }

    fn numbered(&self, prefix: &str) -> Result<Vec<u32>> {
        chain::numbered(&self.path, prefix, "")
    }
}

/// What a directory takes on disk with all that is below it.
pub(crate) fn usage(path: &Path) -> Result<Usage> {
    let mut sum = Usage::default();
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            // What is half-made may go at any moment.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        if meta.is_dir() {
            let below = usage(&entry.path())?;
            sum.all += below.all;
            sum.own += below.own;
            continue;
        }
        // st_blocks counts 512 bytes whatever the file system's block size is, see stat(3type).
        let bytes = meta.blocks() * 512;
        sum.all += bytes;
        if meta.nlink() == 1 {
            sum.own += bytes;
        }
    }
    Ok(sum)
}
