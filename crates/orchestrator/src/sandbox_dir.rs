//! A sandbox's directory: where it comes from, its disk layers and its memory snapshots.
//!
//! ```text
//! origin.json          what it was made of; never changes
//! layer-<n>.qcow2      its disk over the template's, lowest number first
//! snapshot-<n>/        manifest.json, devices, pages
//! ```
//! Invariant: a snapshot names the layers that belong to it, and these are never written again:
//! waking adds a layer. So memory can never be restored over a disk that is newer than itself, and
//! a snapshot stays good until the next one is committed.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use base::{files, hash};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Kind, Result};

const FORMAT: u32 = 1;
/// Clusters of 64 KiB, QEMU's own default.
const CLUSTER_BITS: u32 = 16;

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

/// What a memory snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotManifest {
    pub format: u32,
    /// Unix seconds.
    pub taken_at: i64,
    /// The engine that can load it.
    pub fingerprint: String,
    /// The template under its pages, or `blank`.
    pub memory_base: String,
    /// The disk layers that belong to it.
    pub layers: Vec<u32>,
    pub devices_sha256: String,
    /// What it takes on disk, bytes.
    pub bytes: u64,
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
        if hash::file(&path)? != self.manifest.devices_sha256 {
            return Err(damaged("its device state does not match its checksum"));
        }
        crate::template::open(&path)
    }

    pub(crate) fn pages(&self) -> PathBuf {
        self.directory.join("pages")
    }
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::SnapshotCorrupt, format!("the memory snapshot is damaged: {what}"))
        .hint("its disk is untouched: bhatti start NAME --from disk")
}

/// Layers of a disk that a stop leaves; each wake adds one. Merging costs as much as was written
/// since the last time, reading through many layers costs a little each time.
const MOST_LAYERS: usize = 4;

/// Whether the next stop merges these layers into the lowest.
pub(crate) fn merges(layers: &[u32]) -> bool {
    layers.len() > MOST_LAYERS
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDir {
    path: PathBuf,
}

impl SandboxDir {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes the directory with a first disk layer.
    pub(crate) fn create(path: PathBuf, origin: &Origin, disk_mib: u64) -> Result<Self> {
        fs_err::create_dir(&path)?;
        let text = to_json(origin)?;
        files::write_atomic(&path.join("origin.json"), &text, 0o600)?;
        let directory = Self { path };
        directory.add_layer(disk_mib)?;
        Ok(directory)
    }

    pub(crate) fn origin(&self) -> Result<Origin> {
        from_json(&self.path.join("origin.json"))
            .map_err(|error| Error::internal("the sandbox's own description cannot be read", error))
    }

    /// Numbers of the layers that are there, lowest first.
    pub(crate) fn layers(&self) -> Result<Vec<u32>> {
        self.numbered("layer-", ".qcow2")
    }

    /// Adds an empty layer on top and returns its number.
    pub(crate) fn add_layer(&self, disk_mib: u64) -> Result<u32> {
        let number = self.layers()?.last().map_or(0, |last| last + 1);
        let path = self.layer(number);
        let file = fs_err::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let made = disk::qcow2::create_overlay(file.file(), disk_mib << 20, CLUSTER_BITS);
        if let Err(error) = made {
            let _ = fs_err::remove_file(&path);
            return Err(std::io::Error::from(error).into());
        }
        Ok(number)
    }

    /// Removes the layers that are not in `keep`.
    pub(crate) fn keep_layers(&self, keep: &[u32]) -> Result<()> {
        for number in self.layers()? {
            if !keep.contains(&number) {
                fs_err::remove_file(self.layer(number))?;
            }
        }
        files::sync_directory(&self.path)?;
        Ok(())
    }

    /// Whether the disk went on after the snapshot.
    ///
    /// # Errors
    /// [`Kind::SnapshotCorrupt`] if layers are missing that the snapshot needs.
    pub(crate) fn has_newer_layers(&self, manifest: &SnapshotManifest) -> Result<bool> {
        let there = self.layers()?;
        if manifest.layers.iter().any(|layer| !there.contains(layer)) {
            return Err(damaged("it names disk layers that are not there"));
        }
        Ok(there.len() > manifest.layers.len())
    }

    /// Opens layers in order; only the last for writing, and the lowest if there are so many that
    /// the next stop merges them. Each must be an overlay as we make them,
    /// because whoever controls a VM's monitor could have written anything.
    pub(crate) fn open_layers(&self, numbers: &[u32]) -> Result<Vec<OwnedFd>> {
        let mut open = Vec::with_capacity(numbers.len());
        for (index, number) in numbers.iter().enumerate() {
            let written = index + 1 == numbers.len() || (index == 0 && merges(numbers));
            let file =
                fs_err::OpenOptions::new().read(true).write(written).open(self.layer(*number))?;
            disk::qcow2::validate_header(file.file())
                .map_err(|error| Error::internal("the sandbox's disk cannot be used", error))?;
            open.push(file.into_parts().0.into());
        }
        Ok(open)
    }

    /// The newest committed snapshot.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>> {
        let Some(number) = self.numbered("snapshot-", "")?.pop() else { return Ok(None) };
        let directory = self.path.join(format!("snapshot-{number}"));
        let manifest: Result<SnapshotManifest, _> = from_json(&directory.join("manifest.json"));
        match manifest {
            Ok(manifest) if manifest.format == FORMAT => Ok(Some(Snapshot { directory, manifest })),
            Ok(_) => Err(damaged("it has another format")),
            Err(_) => Err(damaged("its manifest cannot be read")),
        }
    }

    /// The lowest layer of a snapshot now holds what all of its layers held: the others go, once
    /// the snapshot does not name them any more.
    pub(crate) fn layers_merged(&self, snapshot: &Snapshot) -> Result<()> {
        let Some(lowest) = snapshot.manifest.layers.first().copied() else { return Ok(()) };
        fs_err::File::open(self.layer(lowest))?.sync_all()?;
        let mut manifest = snapshot.manifest.clone();
        manifest.layers = vec![lowest];
        let path = snapshot.directory.join("manifest.json");
        files::write_atomic(&path, &to_json(&manifest)?, 0o600)?;
        self.keep_layers(&[lowest])
    }

    /// Where the next snapshot is put together.
    pub(crate) fn begin_snapshot(&self) -> Result<PathBuf> {
        let path = files::temporary_sibling(&self.path.join("snapshot"));
        fs_err::create_dir(&path)?;
        Ok(path)
    }

    /// Makes a complete snapshot the newest one and then removes the older ones.
    pub(crate) fn commit_snapshot(
        &self,
        temporary: &Path,
        taken_at: i64,
        fingerprint: String,
        memory_base: String,
    ) -> Result<Snapshot> {
        let bytes = disk::sparse::allocated_bytes(&temporary.join("devices"))?
            + disk::sparse::allocated_bytes(&temporary.join("pages"))?;
        let manifest = SnapshotManifest {
            format: FORMAT,
            taken_at,
            fingerprint,
            memory_base,
            layers: self.layers()?,
            devices_sha256: hash::file(&temporary.join("devices"))?,
            bytes,
        };
        files::write_atomic(&temporary.join("manifest.json"), &to_json(&manifest)?, 0o600)?;
        let older = self.numbered("snapshot-", "")?;
        let number = older.last().map_or(1, |last| last + 1);
        let directory = self.path.join(format!("snapshot-{number}"));
        files::commit_directory(temporary, &directory)?;
        self.remove_snapshots(&older);
        Ok(Snapshot { directory, manifest })
    }

    /// Removes every snapshot: the disk is about to go on without them.
    pub(crate) fn forget_snapshots(&self) -> Result<()> {
        let all = self.numbered("snapshot-", "")?;
        for number in all {
            files::remove_any(&self.path.join(format!("snapshot-{number}")))?;
        }
        Ok(files::sync_directory(&self.path)?)
    }

    /// Removes a snapshot that holds the layer which a VM is about to write on: its commit failed
    /// half-way.
    pub(crate) fn forget_failed_snapshot(&self) -> Result<()> {
        let layers = self.layers()?;
        if let Some(snapshot) = self.snapshot()?
            && snapshot.manifest.layers == layers
        {
            files::remove_any(&snapshot.directory)?;
        }
        Ok(())
    }

    fn remove_snapshots(&self, numbers: &[u32]) {
        for number in numbers {
            let path = self.path.join(format!("snapshot-{number}"));
            if let Err(error) = files::remove_any(&path) {
                tracing::warn!(%error, "an old snapshot could not be removed");
            }
        }
    }

    /// Removes what a crash left half-made.
    pub(crate) fn sweep(&self) -> Result<()> {
        files::sweep_temporary(&self.path)?;
        Ok(())
    }

    /// Removes everything.
    pub(crate) fn remove(&self) -> Result<()> {
        Ok(files::remove_any(&self.path)?)
    }

    fn layer(&self, number: u32) -> PathBuf {
        self.path.join(format!("layer-{number}.qcow2"))
    }

    fn numbered(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs_err::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number: Option<u32> = name
                .to_str()
                .and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// A description with a checksum of its own: a flipped digit in it could otherwise name the wrong
/// layers.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    sha256: String,
    body: T,
}

fn to_json(body: &impl Serialize) -> Result<Vec<u8>> {
    checksum(body)
        .and_then(|sha256| serde_json::to_vec_pretty(&Sealed { sha256, body }))
        .map_err(|error| Error::internal("a manifest cannot be written", error))
}

fn from_json<T: DeserializeOwned + Serialize>(path: &Path) -> std::io::Result<T> {
    let sealed: Sealed<T> = serde_json::from_slice(&fs_err::read(path)?)?;
    if checksum(&sealed.body)? == sealed.sha256 {
        return Ok(sealed.body);
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the checksum does not match"))
}

fn checksum(body: &impl Serialize) -> serde_json::Result<String> {
    Ok(hash::bytes(&serde_json::to_vec(body)?))
}
