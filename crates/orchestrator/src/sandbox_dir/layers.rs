//! The layers of a sandbox's disk.
//!
//! A layer that is not on top is never written again, so copies of a sandbox share it by hard
//! links. The file system counts them: whoever is removed takes nothing from the others, and what
//! nobody needs any more is free. A layer with one link is this sandbox's alone, and only such ones
//! are merged.

use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::PathBuf,
};

use base::{fault, files};
use disk::qcow2::Qcow2Error;

use super::{SandboxDir, SnapshotManifest, damaged, generations::link, sealed};
use crate::{Error, Kind, Result};

/// Clusters of 64 KiB, QEMU's own default.
const CLUSTER_BITS: u32 = 16;

/// Layers of its own that a stop leaves to a disk; each wake, snapshot and fork adds one. Merging
/// costs as much as was written since the last time, reading through many layers costs a little
/// each time.
const MOST_OWN: usize = 4;

/// What is left to do if not even the disk is whole.
pub(super) const BACKUP: &str =
    "bring the sandbox's directory back from a backup of the data directory";

/// What a named snapshot says of its layers.
const LAYERS: &str = "layers.json";

/// Layers of a disk altogether. Shared ones cannot be merged; beyond this many their content is
/// copied.
const MOST: usize = 32;

/// How a disk's layers become fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shorten {
    /// All layers from this one on go into it.
    Into(u32),
    /// What all layers hold goes into the top one.
    Flatten,
}

impl SandboxDir {
    /// Numbers of the layers that are there, lowest first.
    pub(crate) fn layers(&self) -> Result<Vec<u32>> {
        self.numbered("layer-", ".qcow2")
    }

    /// Adds an empty layer on top and returns its number.
    pub(crate) fn add_layer(&self, disk_mib: u64) -> Result<u32> {
        let number = self.layers()?.last().map_or(0, |last| last + 1);
        let path = self.layer(number);
        // What has the name of a layer is one: whoever dies here leaves none that is half-made.
        let temporary = files::temporary_sibling(&path);
        let made = (|| {
            let file = fs_err::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            disk::qcow2::create_overlay(file.file(), disk_mib << 20, CLUSTER_BITS)
                .map_err(std::io::Error::from)?;
            fs_err::rename(&temporary, &path)
        })();
        if made.is_err() {
            let _ = fs_err::remove_file(&temporary);
        }
        made?;
        Ok(number)
    }

    /// Gives an empty directory the layers of a template, if it has any, and one of its own on top.
    pub(crate) fn begin_on(&self, template: &Self, disk_mib: u64) -> Result<()> {
        let below = template.layers()?;
        if !below.is_empty() {
            template.link_layers(self, &below)?;
        }
        self.add_layer(disk_mib).map(drop)
    }

    /// Gives an empty directory the layers that an image was saved with, lowest first.
    pub(crate) fn link_saved(&self, saved: &[PathBuf]) -> Result<()> {
        for (number, path) in (0..).zip(saved) {
            fault::point("link.saved")?;
            link(path, &self.layer(number))?;
        }
        Ok(())
    }

    /// Removes layers on top of which nothing has reached the disk, not even what makes them layers:
    /// the host lost its power. Their guest was never told that anything in them was safe.
    pub(crate) fn drop_blank_layers(&self) -> Result<()> {
        let named = self.layers_of_snapshots().unwrap_or_default();
        for number in self.layers()?.into_iter().rev() {
            let mut head = [0; 4];
            let file = fs_err::File::open(self.layer(number))?;
            let read = std::os::unix::fs::FileExt::read_at(file.file(), &mut head, 0)?;
            if named.contains(&number) || head[..read].iter().any(|byte| *byte != 0) {
                break;
            }
            tracing::warn!(layer = number, "a layer that never reached the disk is removed");
            self.remove_layer(number)?;
        }
        Ok(())
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
    /// [`Kind::SnapshotCorrupt`](crate::Kind::SnapshotCorrupt) if layers are missing that the
    /// snapshot needs.
    pub(crate) fn has_newer_layers(&self, manifest: &SnapshotManifest) -> Result<bool> {
        let there = self.layers()?;
        let layers = &manifest.facts.layers;
        if layers.iter().any(|layer| !there.contains(layer)) {
            return Err(damaged("it names disk layers that are not there").hint(BACKUP));
        }
        self.check_lengths(layers, &manifest.layer_bytes)?;
        Ok(there.len() > layers.len())
    }

    /// Opens layers in order, only the last for writing.
    pub(crate) fn open_layers(&self, numbers: &[u32]) -> Result<Vec<vmm::Layer>> {
        let last = numbers.len().saturating_sub(1);
        let open = |(index, number): (usize, &u32)| {
            Ok(vmm::Layer { number: *number, file: self.open_layer(*number, index == last)? })
        };
        numbers.iter().enumerate().map(open).collect()
    }

    /// Opens one layer. It must be an overlay as we make them, because whoever controls a VM's
    /// monitor could have written anything.
    pub(crate) fn open_layer(&self, number: u32, write: bool) -> Result<OwnedFd> {
        let file = fs_err::OpenOptions::new().read(true).write(write).open(self.layer(number))?;
        match disk::qcow2::validate_header(file.file()) {
            Ok(_) => Ok(file.into_parts().0.into()),
            Err(Qcow2Error::Io(error)) => Err(error.into()),
            Err(error) => {
                let message = format!("layer {number} of the disk is damaged");
                Err(Error::new(Kind::SnapshotCorrupt, message).hint(BACKUP).caused_by(error))
            }
        }
    }

    /// Whether and how the layers are to become fewer when the sandbox stops.
    pub(crate) fn shorten(&self, numbers: &[u32]) -> Result<Option<Shorten>> {
        let mut own = Vec::new();
        for number in numbers.iter().rev() {
            if fs_err::metadata(self.layer(*number))?.nlink() > 1 {
                break;
            }
            own.push(*number);
        }
        if own.len() > MOST_OWN {
            return Ok(own.last().copied().map(Shorten::Into));
        }
        Ok(self.is_long(numbers).then_some(Shorten::Flatten))
    }

    /// Whether there are so many layers that their content is better copied together.
    pub(crate) fn is_long(&self, numbers: &[u32]) -> bool {
        numbers.len() > MOST
    }

    /// Gives the directory `target` the layers in `numbers`. They must not be written any more.
    pub(super) fn link_layers(&self, target: &Self, numbers: &[u32]) -> Result<()> {
        if numbers.is_empty() {
            return Err(damaged("its disk has no layers"));
        }
        for number in numbers {
            fault::point("link.layer")?;
            link(&self.layer(*number), &target.layer(*number))?;
        }
        Ok(())
    }

    /// Writes down which layers a named snapshot consists of.
    pub(crate) fn seal_layers(&self) -> Result<()> {
        let layers = self.layers()?;
        let lengths = self.lengths(&layers)?;
        sealed::write(&self.path.join(LAYERS), &(layers, lengths))
    }

    /// The layers that a named snapshot consists of.
    pub(crate) fn disk_layers(&self) -> Result<Vec<u32>> {
        let (layers, lengths): (Vec<u32>, Vec<u64>) = sealed::read(&self.path.join(LAYERS))
            .map_err(|_| damaged("the list of its disk's layers cannot be read"))?;
        self.check_lengths(&layers, &lengths)?;
        Ok(layers)
    }

    /// How long the files of these layers are, bytes.
    pub(super) fn lengths(&self, numbers: &[u32]) -> Result<Vec<u64>> {
        numbers.iter().map(|number| Ok(fs_err::metadata(self.layer(*number))?.len())).collect()
    }

    /// That nothing of these layers was cut off. A merge that broke off may have made one longer.
    fn check_lengths(&self, numbers: &[u32], lengths: &[u64]) -> Result<()> {
        let there = self.lengths(numbers)?;
        match there.iter().zip(lengths).position(|(there, wanted)| there < wanted) {
            Some(at) => {
                let message = format!("layer {} of the disk is cut off", numbers[at]);
                Err(Error::new(Kind::SnapshotCorrupt, message).hint(BACKUP))
            }
            None => Ok(()),
        }
    }

    /// Has the content of a layer on the disk.
    pub(crate) fn flush_layer(&self, number: u32) -> Result<()> {
        Ok(fs_err::File::open(self.layer(number))?.sync_data()?)
    }

    /// Removes one layer that was never used.
    pub(crate) fn remove_layer(&self, number: u32) -> Result<()> {
        Ok(fs_err::remove_file(self.layer(number))?)
    }

    /// The files of all layers, lowest first.
    pub(crate) fn layer_paths(&self) -> Result<Vec<PathBuf>> {
        Ok(self.layers()?.into_iter().map(|number| self.layer(number)).collect())
    }

    pub(super) fn layer(&self, number: u32) -> PathBuf {
        self.path.join(format!("layer-{number}.qcow2"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox_dir::Origin;

    fn directory(at: PathBuf) -> SandboxDir {
        let template = tempfile::tempdir().unwrap();
        let template = SandboxDir::at(template.path().to_owned());
        SandboxDir::create(at, &Origin::new("t", "i", "k"), &template, 64).unwrap()
    }

    #[test]
    fn only_layers_of_its_own_are_merged() {
        let root = tempfile::tempdir().unwrap();
        let parent = directory(root.path().join("parent"));
        for _ in 0..3 {
            parent.add_layer(64).unwrap();
        }
        let four = parent.layers().unwrap();
        assert_eq!(parent.shorten(&four).unwrap(), None);
        let child = parent.copy_to(root.path().join("child"), &four).unwrap();
        for _ in 0..MOST_OWN {
            child.add_layer(64).unwrap();
        }
        let eight = child.layers().unwrap();
        assert_eq!(child.shorten(&eight).unwrap(), None, "four are shared, four its own");
        child.add_layer(64).unwrap();
        let nine = child.layers().unwrap();
        assert_eq!(child.shorten(&nine).unwrap(), Some(Shorten::Into(4)));
        parent.remove().unwrap();
        assert_eq!(child.shorten(&nine).unwrap(), Some(Shorten::Into(0)), "all are its own now");
        child.open_layers(&nine).unwrap();
    }

    #[test]
    fn a_layer_that_never_reached_the_disk_goes_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let sandbox = directory(root.path().join("sandbox"));
        sandbox.add_layer(64).unwrap();
        for (number, length) in [(2, 0), (3, 262_144)] {
            fs_err::File::create(sandbox.layer(number)).unwrap().set_len(length).unwrap();
        }
        sandbox.drop_blank_layers().unwrap();
        assert_eq!(sandbox.layers().unwrap(), [0, 1]);
        sandbox.drop_blank_layers().unwrap();
        assert_eq!(sandbox.layers().unwrap(), [0, 1]);
    }

    #[test]
    fn a_long_chain_of_shared_layers_is_copied_together() {
        let root = tempfile::tempdir().unwrap();
        let parent = directory(root.path().join("parent"));
        for _ in 0..MOST {
            parent.add_layer(64).unwrap();
        }
        let layers = parent.layers().unwrap();
        let _child = parent.copy_to(root.path().join("child"), &layers).unwrap();
        assert_eq!(parent.shorten(&layers).unwrap(), Some(Shorten::Flatten));
        assert_eq!(parent.shorten(&layers[..MOST]).unwrap(), None);
    }
}
