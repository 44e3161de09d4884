//! The memory snapshots in a sandbox's directory.

use std::{
    io::ErrorKind,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use base::{fault, files, hash};
use proto::message::Resting;
use serde::{Deserialize, Serialize};

use vmm::Drive;

use super::{FORMAT, Layers, OfLayers, SandboxDir, sealed};
use crate::{Error, Kind, Result, chain::link, fingerprint::Fingerprint, model::StoppedBy};

/// The largest snapshot that is kept beside a newer one, bytes. It is a second way back if the newer
/// one turns out damaged, which is not worth more than this.
const KEPT_MAX: u64 = 64 << 20;

/// What was going on in a guest that was stopped.
const RESTING: &str = "resting.json";

/// What a memory snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotManifest {
    pub format: u32,
    pub facts: Facts,
    pub devices_sha256: String,
    /// How long the files of its layers are at least, bytes.
    pub layer_bytes: Vec<u64>,
    /// The same of volumes that belong to it, by slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_bytes: Vec<(u32, Vec<u64>)>,
    /// What it takes on disk, bytes.
    pub bytes: u64,
}

/// What a saved memory has to be loaded with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Unix seconds.
    pub taken_at: i64,
    /// What can load it.
    pub fingerprint: Fingerprint,
    /// The template under its pages, or `blank`.
    pub memory_base: String,
    /// The disk layers that belong to it.
    #[serde(flatten)]
    pub layers: Layers,
    /// Whether the agent in it believes to be connected: it was taken of a sandbox that went on.
    pub connected: bool,
    /// For whom the sandbox was stopped, if it was.
    pub by: StoppedBy,
}

impl SnapshotManifest {
    /// How long the files of its layers are at least, bytes.
    pub(super) fn lengths(&self) -> OfLayers<u64> {
        OfLayers { disk: self.layer_bytes.clone(), volumes: self.volume_bytes.clone() }
    }
}

/// A committed snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub directory: PathBuf,
    pub manifest: SnapshotManifest,
}

impl Snapshot {
    /// The checked device state.
    pub(crate) fn devices(&self) -> Result<OwnedFd> {
        let path = self.directory.join("devices");
        match hash::file(&path) {
            Ok(sum) if sum == self.manifest.devices_sha256 => {}
            Ok(_) => return Err(damaged("its device state does not match its checksum")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(damaged("its device state is missing"));
            }
            Err(error) => return Err(error.into()),
        }
        crate::template::open(&path)
    }

    /// What was going on in the guest, if that is known.
    pub(crate) fn resting(&self) -> Option<Resting> {
        sealed::read(&self.directory.join(RESTING)).ok()
    }

    pub(crate) fn pages(&self) -> PathBuf {
        self.directory.join("pages")
    }
}

/// An error about a memory snapshot that does not verify. Whoever knows the sandbox adds what can
/// be done.
pub(crate) fn damaged(what: &str) -> Error {
    Error::new(Kind::SnapshotCorrupt, format!("the memory snapshot is damaged: {what}"))
}

impl SandboxDir {
    /// The newest committed snapshot.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>> {
        let newest = self.numbered("snapshot-")?.pop();
        newest.map(|number| self.read(number)).transpose()
    }

    /// The one before the newest, if it was kept.
    pub(crate) fn previous_snapshot(&self) -> Result<Option<Snapshot>> {
        let previous = self.numbered("snapshot-")?.into_iter().rev().nth(1);
        previous.map(|number| self.read(number)).transpose()
    }

    fn read(&self, number: u32) -> Result<Snapshot> {
        let directory = self.generation(number);
        let manifest: Result<SnapshotManifest, _> = sealed::read(&directory.join("manifest.json"));
        match manifest {
            Ok(manifest) if manifest.format == FORMAT => Ok(Snapshot { directory, manifest }),
            Ok(_) => {
                let message = "the memory snapshot was written by another version of bhatti";
                Err(Error::new(Kind::SnapshotIncompatible, message))
            }
            Err(_) => Err(damaged("its manifest cannot be read")),
        }
    }

    /// Where the next snapshot is put together.
    pub(crate) fn begin_snapshot(&self) -> Result<PathBuf> {
        let path = files::temporary_sibling(&self.path.join("snapshot"));
        fs_err::create_dir(&path)?;
        Ok(path)
    }

    /// Adds what is going on in the guest to a snapshot that is being put together.
    pub(crate) fn write_resting(&self, temporary: &Path, resting: &Resting) -> Result<()> {
        sealed::write(&temporary.join(RESTING), resting)
    }

    /// Makes a complete snapshot the newest one and then removes the older ones. The last before
    /// it is kept if it is small.
    pub(crate) fn commit_snapshot(&self, temporary: &Path, facts: Facts) -> Result<Snapshot> {
        let bytes = disk::sparse::allocated_bytes(&temporary.join("devices"))?
            + disk::sparse::allocated_bytes(&temporary.join("pages"))?;
        let OfLayers { disk: layer_bytes, volumes: volume_bytes } = self.lengths(&facts.layers)?;
        let manifest = SnapshotManifest {
            format: FORMAT,
            facts,
            devices_sha256: hash::file(&temporary.join("devices"))?,
            layer_bytes,
            volume_bytes,
            bytes,
        };
        sealed::write(&temporary.join("manifest.json"), &manifest)?;
        let older = self.numbered("snapshot-")?;
        let number = older.last().map_or(1, |last| last + 1);
        let directory = self.generation(number);
        files::commit_directory(temporary, &directory)?;
        fault::point("snapshot.renamed")?;
        self.remove_older()?;
        Ok(Snapshot { directory, manifest })
    }

    /// Removes the snapshots before the newest. The last before it is kept if it is small.
    pub(super) fn remove_older(&self) -> Result<()> {
        let mut older = self.numbered("snapshot-")?;
        older.pop();
        let last = older.last().copied();
        for number in older {
            let kept = last == Some(number)
                && self.read(number).is_ok_and(|snapshot| snapshot.manifest.bytes <= KEPT_MAX);
            if !kept {
                self.remove_generation(number);
            }
        }
        Ok(())
    }

    /// The layers of a disk that any snapshot needs.
    pub(crate) fn layers_of_snapshots(&self, drive: Drive) -> Result<Vec<u32>> {
        let mut layers = Vec::new();
        for number in self.numbered("snapshot-")? {
            layers.extend(self.read(number)?.manifest.facts.layers.of(drive));
        }
        Ok(layers)
    }

    /// Removes every snapshot but this one.
    pub(crate) fn keep_only(&self, snapshot: &Snapshot) -> Result<()> {
        for number in self.numbered("snapshot-")? {
            if self.generation(number) != snapshot.directory {
                self.remove_generation(number);
            }
        }
        Ok(files::sync_directory(&self.path)?)
    }

    fn remove_generation(&self, number: u32) {
        if let Err(error) = files::remove_any(&self.generation(number)) {
            tracing::warn!(%error, "an old snapshot could not be removed");
        }
    }

    /// The disks of a snapshot now consist of these layers: the others go, once the snapshot does
    /// not name them any more.
    pub(crate) fn layers_shortened(&self, snapshot: &Snapshot, layers: &Layers) -> Result<()> {
        for (drive, chain) in self.chains() {
            for number in layers.of(drive) {
                fs_err::File::open(chain.layer(*number))?.sync_all()?;
            }
        }
        let mut manifest = snapshot.manifest.clone();
        manifest.facts.layers = layers.clone();
        let OfLayers { disk, volumes } = self.lengths(layers)?;
        (manifest.layer_bytes, manifest.volume_bytes) = (disk, volumes);
        sealed::write(&snapshot.directory.join("manifest.json"), &manifest)?;
        fault::point("layers.named")?;
        self.keep_layers(layers)
    }

    /// Removes every snapshot: the disk is about to go on without them.
    pub(crate) fn forget_snapshots(&self) -> Result<()> {
        for number in self.numbered("snapshot-")? {
            files::remove_any(&self.generation(number))?;
        }
        Ok(files::sync_directory(&self.path)?)
    }

    /// Removes a snapshot that holds the layer which a VM is about to write on: its commit failed
    /// half-way.
    pub(crate) fn forget_failed_snapshot(&self) -> Result<()> {
        let layers = self.layers()?;
        if let Some(snapshot) = self.snapshot()?
            && snapshot.manifest.facts.layers == layers
        {
            files::remove_any(&snapshot.directory)?;
        }
        Ok(())
    }

    /// Gives the directory `target` this snapshot. Its files are never written again, so they are
    /// shared as layers are.
    pub(super) fn link_snapshot(&self, target: &Self, snapshot: &Snapshot) -> Result<()> {
        let directory = target.generation(1);
        fs_err::create_dir(&directory)?;
        for name in ["devices", "pages"] {
            fault::point("link.snapshot")?;
            link(&snapshot.directory.join(name), &directory.join(name))?;
        }
        // A manifest is rewritten when layers are merged, so each has its own.
        sealed::write(&directory.join("manifest.json"), &snapshot.manifest)?;
        Ok(files::sync_directory(&directory)?)
    }

    fn generation(&self, number: u32) -> PathBuf {
        self.path.join(format!("snapshot-{number}"))
    }
}
