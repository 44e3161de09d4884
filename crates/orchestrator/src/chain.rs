//! A disk in layers: a directory with qcow2 files, and below them a raw disk that is in the directory, too,
//! or a template's.
//!
//! ```text
//! disk.raw             a volume's lowest; never written once it is made
//! layer-<n>.qcow2      lowest number first; only the last is written, by one VM
//! ```
//! A layer that is not on top is never written again, so copies share it by hard links. The file
//! system counts them: whoever is removed takes nothing from the others, and what nobody needs any
//! more is free. A layer with one link is this disk's alone, and only such ones are merged.

use std::{
    io::ErrorKind,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use base::{fault, files};
use disk::qcow2::Qcow2Error;

use crate::{
    Error, Kind, Result,
    sandbox_dir::{damaged, sealed},
};

/// Clusters of 64 KiB, QEMU's own default.
const CLUSTER_BITS: u32 = 16;

/// Layers of its own that a stop leaves to a disk; each wake, snapshot and fork adds one. Merging
/// costs as much as was written since the last time, reading through many layers costs a little
/// each time.
const MOST_OWN: usize = 4;

/// Layers of a disk altogether. Shared ones cannot be merged; beyond this many their content is
/// copied.
const MOST: usize = 32;

/// What is left to do if not even the disk is whole.
pub(crate) const BACKUP: &str =
    "bring the sandbox's directory back from a backup of the data directory";

/// What a named snapshot says of its layers.
const LAYERS: &str = "layers.json";

/// The raw disk at the bottom, if it is the chain's own.
const RAW: &str = "disk.raw";

/// How a disk's layers become fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shorten {
    /// All layers from this one on go into it.
    Into(u32),
    /// What all layers hold goes into the top one.
    Flatten,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    directory: PathBuf,
}

impl Chain {
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The raw disk at the bottom, which is only there if it is the chain's own.
    pub(crate) fn raw(&self) -> PathBuf {
        self.directory.join(RAW)
    }

    /// Numbers of the layers that are there, lowest first.
    pub(crate) fn layers(&self) -> Result<Vec<u32>> {
        numbered(&self.directory, "layer-", ".qcow2")
    }

    /// How large the disk is, bytes.
    pub(crate) fn bytes(&self) -> Result<u64> {
        match self.layers()?.last() {
            Some(top) => Ok(self.header(*top)?.1.virtual_size),
            None => Ok(fs_err::metadata(self.raw())?.len()),
        }
    }

    /// Adds an empty layer of `bytes` on top and returns its number.
    pub(crate) fn add_layer(&self, bytes: u64) -> Result<u32> {
        let number = self.layers()?.last().map_or(0, |last| last + 1);
        let path = self.layer(number);
        // What has the name of a layer is one: whoever dies here leaves none that is half-made.
        let temporary = files::temporary_sibling(&path);
        let made = (|| {
            let file = fs_err::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            disk::qcow2::create_overlay(file.file(), bytes, CLUSTER_BITS)
                .map_err(std::io::Error::from)?;
            fs_err::rename(&temporary, &path)
        })();
        if made.is_err() {
            let _ = fs_err::remove_file(&temporary);
        }
        made?;
        Ok(number)
    }

    /// The layers for somebody who is the first to write, on a disk of `bytes`: the top is gone on with
    /// if nobody else has it and it is as large.
    pub(crate) fn begin(&self, bytes: u64) -> Result<Vec<u32>> {
        self.drop_blank_layers(&[])?;
        let mut layers = self.layers()?;
        let reusable = match layers.last() {
            Some(top) => {
                let (file, info) = self.header(*top)?;
                info.virtual_size == bytes && file.metadata()?.nlink() == 1
            }
            None => false,
        };
        if !reusable {
            layers.push(self.add_layer(bytes)?);
        }
        Ok(layers)
    }

    /// Gives an empty disk the layers of a template, if it has any.
    pub(crate) fn begin_on(&self, template: &Self) -> Result<()> {
        for number in template.layers()? {
            fault::point("link.layer")?;
            link(&template.layer(number), &self.layer(number))?;
        }
        Ok(())
    }

    /// Gives an empty disk what an image was saved with, lowest first.
    pub(crate) fn begin_saved(&self, raw: &Path, layers: &[PathBuf]) -> Result<()> {
        link(raw, &self.raw())?;
        for (number, path) in (0..).zip(layers) {
            fault::point("link.saved")?;
            link(path, &self.layer(number))?;
        }
        Ok(())
    }

    /// Removes layers on top of which nothing has reached the disk, not even what makes them layers:
    /// the host lost its power. Their guest was never told that anything in them was safe.
    pub(crate) fn drop_blank_layers(&self, named: &[u32]) -> Result<()> {
        for number in self.layers()?.into_iter().rev() {
            let mut head = [0; 4];
            let file = fs_err::File::open(self.layer(number))?;
            let read = file.file().read_at(&mut head, 0)?;
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
        files::sync_directory(&self.directory)?;
        Ok(())
    }

    /// Opens layers in order, only the last for writing, if any.
    pub(crate) fn open_layers(&self, numbers: &[u32], write: bool) -> Result<Vec<vmm::Layer>> {
        let last = numbers.len().saturating_sub(1);
        let open = |(index, number): (usize, &u32)| {
            let file = self.open_layer(*number, write && index == last)?;
            Ok(vmm::Layer { number: *number, file })
        };
        numbers.iter().enumerate().map(open).collect()
    }

    /// Opens one layer. It must be an overlay as we make them, because whoever controls a VM's
    /// monitor could have written anything.
    pub(crate) fn open_layer(&self, number: u32, write: bool) -> Result<OwnedFd> {
        let file = fs_err::OpenOptions::new().read(true).write(write).open(self.layer(number))?;
        validate(&file, number)?;
        Ok(file.into_parts().0.into())
    }

    /// What the disk reads as. Nobody may write to it any more.
    pub(crate) fn reader(&self) -> Result<disk::qcow2::Chain> {
        let open = |path: PathBuf| Ok::<_, Error>(fs_err::File::open(path)?.into_file());
        let layers = self.layers()?;
        let files = layers.iter().map(|number| open(self.layer(*number))).collect::<Result<_>>()?;
        disk::qcow2::Chain::open(open(self.raw())?, files).map_err(|error| match error {
            Qcow2Error::Io(error) => error.into(),
            error => damaged("a layer of the disk is not as this host makes them").caused_by(error),
        })
    }

    fn header(&self, number: u32) -> Result<(fs_err::File, disk::qcow2::Info)> {
        let file = fs_err::File::open(self.layer(number))?;
        let info = validate(&file, number)?;
        Ok((file, info))
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
        Ok(is_long(numbers).then_some(Shorten::Flatten))
    }

    /// Gives the directory `target`, which is made if missing, the layers in `numbers` and what lies
    /// below. They must not be written any more.
    pub(crate) fn link_to(&self, target: &Path, numbers: &[u32]) -> Result<()> {
        let target = Self::at(target.to_owned());
        match fs_err::create_dir(&target.directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        if self.raw().exists() {
            fault::point("link.raw")?;
            link(&self.raw(), &target.raw())?;
        } else if numbers.is_empty() {
            return Err(damaged("its disk has no layers"));
        }
        for number in numbers {
            fault::point("link.layer")?;
            link(&self.layer(*number), &target.layer(*number))?;
        }
        Ok(())
    }

    /// Writes down which layers a named snapshot consists of.
    pub(crate) fn seal(&self) -> Result<()> {
        let layers = self.layers()?;
        let lengths = self.lengths(&layers)?;
        sealed::write(&self.directory.join(LAYERS), &(layers, lengths))
    }

    /// The layers that a named snapshot consists of.
    pub(crate) fn sealed(&self) -> Result<Vec<u32>> {
        let (layers, lengths): (Vec<u32>, Vec<u64>) = sealed::read(&self.directory.join(LAYERS))
            .map_err(|_| damaged("the list of its disk's layers cannot be read"))?;
        self.check_lengths(&layers, &lengths)?;
        Ok(layers)
    }

    /// How long the files of these layers are, bytes.
    pub(crate) fn lengths(&self, numbers: &[u32]) -> Result<Vec<u64>> {
        numbers.iter().map(|number| Ok(fs_err::metadata(self.layer(*number))?.len())).collect()
    }

    /// That nothing of these layers was cut off. A merge that broke off may have made one longer.
    pub(crate) fn check_lengths(&self, numbers: &[u32], lengths: &[u64]) -> Result<()> {
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

    /// Has everything on the disk, as far as it is not yet.
    pub(crate) fn flush(&self) -> Result<()> {
        for number in self.layers()? {
            self.flush_layer(number)?;
        }
        Ok(files::sync_directory(&self.directory)?)
    }

    /// Removes one layer that was never used.
    pub(crate) fn remove_layer(&self, number: u32) -> Result<()> {
        Ok(fs_err::remove_file(self.layer(number))?)
    }

    pub(crate) fn layer(&self, number: u32) -> PathBuf {
        self.directory.join(format!("layer-{number}.qcow2"))
    }
}

/// Whether there are so many layers that their content is better copied together.
pub(crate) fn is_long(numbers: &[u32]) -> bool {
    numbers.len() > MOST
}

/// The numbers in the names of this form in a directory, lowest first.
pub(crate) fn numbered(directory: &Path, prefix: &str, suffix: &str) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Shares a file that is never written again.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    match fs_err::hard_link(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            Err(damaged(&format!("{name} is missing")).caused_by(error))
        }
        linked => Ok(linked?),
    }
}

fn validate(file: &fs_err::File, number: u32) -> Result<disk::qcow2::Info> {
    match disk::qcow2::validate_header(file.file()) {
        Ok(info) => Ok(info),
        Err(Qcow2Error::Io(error)) => Err(error.into()),
        Err(error) => {
            let message = format!("layer {number} of the disk is damaged");
            Err(Error::new(Kind::SnapshotCorrupt, message).hint(BACKUP).caused_by(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 64 << 20;

    fn chain(at: PathBuf, layers: usize) -> Chain {
        fs_err::create_dir(&at).unwrap();
        let chain = Chain::at(at);
        for _ in 0..layers {
            chain.add_layer(BYTES).unwrap();
        }
        chain
    }

    #[test]
    fn only_layers_of_its_own_are_merged() {
        let root = tempfile::tempdir().unwrap();
        let parent = chain(root.path().join("parent"), 4);
        let four = parent.layers().unwrap();
        assert_eq!(parent.shorten(&four).unwrap(), None);
        let child = Chain::at(root.path().join("child"));
        parent.link_to(child.directory(), &four).unwrap();
        for _ in 0..MOST_OWN {
            child.add_layer(BYTES).unwrap();
        }
        let eight = child.layers().unwrap();
        assert_eq!(child.shorten(&eight).unwrap(), None, "four are shared, four its own");
        child.add_layer(BYTES).unwrap();
        let nine = child.layers().unwrap();
        assert_eq!(child.shorten(&nine).unwrap(), Some(Shorten::Into(4)));
        fs_err::remove_dir_all(parent.directory()).unwrap();
        assert_eq!(child.shorten(&nine).unwrap(), Some(Shorten::Into(0)), "all are its own now");
        child.open_layers(&nine, true).unwrap();
    }

    #[test]
    fn a_layer_that_never_reached_the_disk_goes_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let chain = chain(root.path().join("chain"), 2);
        for (number, length) in [(2, 0), (3, 262_144)] {
            fs_err::File::create(chain.layer(number)).unwrap().set_len(length).unwrap();
        }
        for _ in 0..2 {
            chain.drop_blank_layers(&[]).unwrap();
            assert_eq!(chain.layers().unwrap(), [0, 1]);
        }
    }

    #[test]
    fn a_long_chain_of_shared_layers_is_copied_together() {
        let root = tempfile::tempdir().unwrap();
        let parent = chain(root.path().join("parent"), MOST + 1);
        let layers = parent.layers().unwrap();
        parent.link_to(&root.path().join("child"), &layers).unwrap();
        assert_eq!(parent.shorten(&layers).unwrap(), Some(Shorten::Flatten));
        assert_eq!(parent.shorten(&layers[..MOST]).unwrap(), None);
    }

    #[test]
    fn a_top_is_gone_on_with_only_if_nobody_else_has_it_and_the_size_is_right() {
        let root = tempfile::tempdir().unwrap();
        let volume = chain(root.path().join("volume"), 0);
        fs_err::File::create(volume.raw()).unwrap().set_len(BYTES).unwrap();
        assert_eq!(volume.bytes().unwrap(), BYTES);
        assert_eq!(volume.begin(BYTES).unwrap(), [0]);
        assert_eq!(volume.begin(BYTES).unwrap(), [0]);
        volume.link_to(&root.path().join("copy"), &[0]).unwrap();
        assert_eq!(volume.begin(BYTES).unwrap(), [0, 1]);
        assert_eq!(volume.begin(2 * BYTES).unwrap(), [0, 1, 2]);
        assert_eq!(volume.bytes().unwrap(), 2 * BYTES);
        fs_err::write(volume.layer(3), "").unwrap();
        assert_eq!(volume.begin(2 * BYTES).unwrap(), [0, 1, 2]);
        let copy = Chain::at(root.path().join("copy"));
        assert_eq!((copy.bytes().unwrap(), copy.layers().unwrap()), (BYTES, vec![0]));
        assert!(copy.raw().is_file());
    }
}
