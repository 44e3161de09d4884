//! The disks of a sandbox: its own, and the volumes that it has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm::{Drive, Layer, Volume};

use super::{SandboxDir, SnapshotManifest, damaged};
use crate::{
    Result,
    chain::{self, BACKUP, Chain, Shorten},
    layout::Layout,
    model::VolumeUse,
    template,
};

/// Something about each layer of the disks that a sandbox writes to, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfLayers<T> {
    /// Of its own disk.
    #[serde(rename = "layers")]
    pub disk: Vec<T>,
    /// Of volumes, by their slots.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<(u32, Vec<T>)>,
}

/// The layers of the disks that a sandbox writes to.
pub(crate) type Layers = OfLayers<u32>;

impl<T> OfLayers<T> {
    /// Those of one disk.
    pub(crate) fn of(&self, drive: Drive) -> &[T] {
        match drive {
            Drive::Scratch => &self.disk,
            Drive::Volume(slot) => {
                let found = self.volumes.iter().find(|(number, _)| *number == slot);
                found.map_or(&[], |(_, layers)| layers)
            }
        }
    }

    /// Says something else of one disk.
    pub(crate) fn replace(&mut self, drive: Drive, layers: Vec<T>) {
        match drive {
            Drive::Scratch => self.disk = layers,
            Drive::Volume(slot) => {
                self.volumes.retain(|(number, _)| *number != slot);
                self.volumes.push((slot, layers));
                self.volumes.sort_by_key(|(number, _)| *number);
            }
        }
    }

    /// All disks and what is said of them.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Drive, &[T])> {
        let volumes = self.volumes.iter();
        let volumes = volumes.map(|(slot, layers)| (Drive::Volume(*slot), layers.as_slice()));
        std::iter::once((Drive::Scratch, self.disk.as_slice())).chain(volumes)
    }

    fn collect(all: impl Iterator<Item = Result<(Drive, Vec<T>)>>) -> Result<Self> {
        let (mut disk, mut volumes) = (Vec::new(), Vec::new());
        for one in all {
            match one? {
                (Drive::Scratch, layers) => disk = layers,
                (Drive::Volume(slot), layers) => volumes.push((slot, layers)),
            }
        }
        Ok(Self { disk, volumes })
    }
}

/// A volume of a sandbox.
#[derive(Debug, Clone)]
pub(super) struct VolumeDir {
    slot: u32,
    chain: Chain,
    read_only: bool,
    /// Whether it is the volume itself, and not a copy that the sandbox has alone.
    attached: bool,
}

/// What copies get of volumes that are only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Nothing: they read the volume itself.
    Attached,
    /// A copy of their own: the volume may be another by the time that they are used.
    Alone,
}

impl SandboxDir {
    /// The directory at `path` of what has these volumes.
    pub(crate) fn with_volumes(path: PathBuf, layout: &Layout, volumes: &[VolumeUse]) -> Self {
        let volume = |(slot, volume): (u32, &VolumeUse)| {
            let attached = volume.copied_at.is_none();
            let directory = match attached {
                true => layout.volume(&volume.volume),
                false => path.join(place(slot)),
            };
            VolumeDir { slot, chain: Chain::at(directory), read_only: volume.read_only, attached }
        };
        let volumes = (0..).zip(volumes).map(volume).collect();
        Self { path, volumes }
    }

    /// The sandbox's own disk.
    pub(crate) fn disk(&self) -> Chain {
        Chain::at(self.path.clone())
    }

    /// One of the disks that the sandbox writes to.
    pub(crate) fn chain(&self, drive: Drive) -> Option<Chain> {
        self.chains().find(|(known, _)| *known == drive).map(|(_, chain)| chain)
    }

    /// The disks that the sandbox writes to.
    pub(crate) fn chains(&self) -> impl Iterator<Item = (Drive, Chain)> {
        let written = self.volumes.iter().filter(|volume| !volume.read_only);
        let written = written.map(|volume| (Drive::Volume(volume.slot), volume.chain.clone()));
        std::iter::once((Drive::Scratch, self.disk())).chain(written)
    }

    /// The layers that are there.
    pub(crate) fn layers(&self) -> Result<Layers> {
        Layers::collect(self.chains().map(|(drive, chain)| Ok((drive, chain.layers()?))))
    }

    /// The layers of the disk of a sandbox that begins on its template's.
    pub(crate) fn begin(&self, template: &Chain, disk_mib: u64) -> Result<Layers> {
        self.disk().begin_on(template)?;
        Ok(Layers { disk: self.disk().begin(disk_mib << 20)?, ..Layers::default() })
    }

    /// The layers of volumes that a sandbox begins to write to. How large each volume is to be is given
    /// by slot, in bytes.
    pub(crate) fn begin_volumes(&self, bytes: &[u64]) -> Result<Vec<(u32, Vec<u32>)>> {
        let mut begun = Vec::new();
        for (drive, chain) in self.chains() {
            let Drive::Volume(slot) = drive else { continue };
            let bytes = bytes.get(usize::try_from(slot).unwrap_or(usize::MAX));
            let bytes = bytes.copied().map_or_else(|| chain.bytes(), Ok)?;
            begun.push((slot, chain.begin(bytes)?));
        }
        Ok(begun)
    }

    /// Adds an empty layer on top of each of `below`, which are all that there are.
    pub(crate) fn add_layers(&self, below: &Layers) -> Result<Layers> {
        let added = Layers::collect(self.chains().map(|(drive, chain)| {
            let mut layers = below.of(drive).to_vec();
            layers.push(chain.add_layer(chain.bytes()?)?);
            Ok((drive, layers))
        }));
        if added.is_err() {
            // Of no use without the others, and of no harm.
            let _ = self.keep_layers(below);
        }
        added
    }

    /// Removes layers that never reached the disk, see [`Chain::drop_blank_layers`].
    pub(crate) fn drop_blank_layers(&self) -> Result<()> {
        for (drive, chain) in self.chains() {
            let named = self.layers_of_snapshots(drive).unwrap_or_default();
            chain.drop_blank_layers(&named)?;
        }
        Ok(())
    }

    /// Removes the layers that are not in `keep`.
    pub(crate) fn keep_layers(&self, keep: &Layers) -> Result<()> {
        self.chains().try_for_each(|(drive, chain)| chain.keep_layers(keep.of(drive)))
    }

    /// Whether a disk went on after the snapshot.
    ///
    /// # Errors
    /// [`Kind::SnapshotCorrupt`](crate::Kind::SnapshotCorrupt) if layers are missing that the
    /// snapshot needs.
    pub(crate) fn has_newer_layers(&self, manifest: &SnapshotManifest) -> Result<bool> {
        let (mut newer, lengths) = (false, manifest.lengths());
        for (drive, chain) in self.chains() {
            let there = chain.layers()?;
            let layers = manifest.facts.layers.of(drive);
            let gone = layers.is_empty() || layers.iter().any(|layer| !there.contains(layer));
            if gone {
                return Err(damaged("it names disk layers that are not there").hint(BACKUP));
            }
            chain.check_lengths(layers, lengths.of(drive))?;
            newer |= there.len() > layers.len();
        }
        Ok(newer)
    }

    /// Opens the layers of the sandbox's own disk.
    pub(crate) fn open_disk(&self, layers: &Layers) -> Result<Vec<Layer>> {
        self.disk().open_layers(&layers.disk, true)
    }

    /// Opens the volumes.
    pub(crate) fn open_volumes(&self, layers: &Layers) -> Result<Vec<Volume>> {
        let open = |volume: &VolumeDir| {
            let (chain, read_only) = (&volume.chain, volume.read_only);
            let layers = match read_only {
                true => chain.open_layers(&chain.layers()?, false)?,
                false => {
                    let numbers = layers.of(Drive::Volume(volume.slot));
                    if numbers.is_empty() {
                        return Err(damaged("it names no layers of a volume").hint(BACKUP));
                    }
                    chain.open_layers(numbers, true)?
                }
            };
            Ok(Volume::Kept { raw: template::open(&chain.raw())?, layers, read_only })
        };
        self.volumes.iter().map(open).collect()
    }

    /// How large each volume is, bytes.
    pub(crate) fn volume_bytes(&self) -> Result<Vec<u64>> {
        self.volumes.iter().map(|volume| volume.chain.bytes()).collect()
    }

    /// The directories of volumes that the sandbox is attached to.
    pub(super) fn attached(&self) -> impl Iterator<Item = &Chain> {
        self.volumes.iter().filter(|volume| volume.attached).map(|volume| &volume.chain)
    }

    /// Which disks' layers are to become fewer when the sandbox stops, and how.
    pub(crate) fn shorten(&self, layers: &Layers) -> Result<Vec<(Drive, Shorten)>> {
        let mut all = Vec::new();
        for (drive, chain) in self.chains() {
            all.extend(chain.shorten(layers.of(drive))?.map(|how| (drive, how)));
        }
        Ok(all)
    }

    /// Gives the directory at `path` the layers in `layers`, which must not be written any more.
    pub(super) fn link_layers(
        &self,
        path: &std::path::Path,
        layers: &Layers,
        readers: Readers,
    ) -> Result<()> {
        self.disk().link_to(path, &layers.disk)?;
        for volume in &self.volumes {
            let numbers = match volume.read_only {
                true if volume.attached && readers == Readers::Attached => continue,
                true => volume.chain.layers()?,
                false => layers.of(Drive::Volume(volume.slot)).to_vec(),
            };
            volume.chain.link_to(&path.join(place(volume.slot)), &numbers)?;
        }
        Ok(())
    }

    /// Writes down which layers a named snapshot consists of.
    pub(crate) fn seal_layers(&self) -> Result<()> {
        self.disk().seal()?;
        self.copied_volumes()?.iter().try_for_each(Chain::seal)
    }

    /// The layers that a named snapshot consists of.
    pub(crate) fn sealed_layers(&self) -> Result<Layers> {
        for volume in &self.volumes {
            volume.chain.sealed()?;
        }
        Layers::collect(self.chains().map(|(drive, chain)| Ok((drive, chain.sealed()?))))
    }

    /// How long the files of these layers are, bytes.
    pub(super) fn lengths(&self, layers: &Layers) -> Result<OfLayers<u64>> {
        let lengths =
            |(drive, chain): (Drive, Chain)| Ok((drive, chain.lengths(layers.of(drive))?));
        OfLayers::collect(self.chains().map(lengths))
    }

    /// The copies of volumes that are in the directory.
    pub(super) fn copied_volumes(&self) -> Result<Vec<Chain>> {
        let slots = chain::numbered(&self.path, "volume-", "")?;
        Ok(slots.into_iter().map(|slot| Chain::at(self.path.join(place(slot)))).collect())
    }
}

/// What a sandbox's copy of a volume is called in its directory.
fn place(slot: u32) -> String {
    format!("volume-{slot}")
}
