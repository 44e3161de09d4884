//! The disks that an image consists of, opened for whoever packs them: the image as it is without what the
//! guest has written since, and the disk of a saved image, which is no disk that this guest lives on.
//!
//! They are mounted for that and have no path: the mount is there for as long as it is open.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::boot::{devices, root};
use crate::volumes;

/// Where a disk is mounted until it is open.
const PLACE: &str = "/run/bhatti/part";

/// What is in it is nothing to this guest but bytes.
const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// How parts are opened: the image itself, or the disk in a volume's slot.
pub(crate) type OpenPart = fn(Option<u32>) -> io::Result<Part>;

/// A directory that is a part of an image.
#[derive(Debug)]
pub(crate) struct Part {
    path: String,
    _directory: Option<OwnedFd>,
}

impl Part {
    /// Its absolute path, which leads there as long as it is open.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The one at a path that does not go away.
    #[cfg(test)]
    pub(crate) fn at(path: &str) -> Self {
        Self { path: path.to_owned(), _directory: None }
    }
}

/// Opens a part of an image on the disks of this machine.
pub(crate) fn of_disks(disk: Option<u32>) -> io::Result<Part> {
    let device = match disk {
        None => devices::disk(devices::BASE),
        Some(slot) => volumes::find(slot),
    };
    let device = device.ok_or_else(|| io::Error::other("it has no device"))?;
    fs::create_dir_all(PLACE)?;
    match disk {
        None => root::mount_image(&device, PLACE, QUIET)?,
        // Written to by its journal only, if whoever had it did not unmount it.
        Some(_) => mount(&device, PLACE, "ext4", QUIET | MountFlags::NOATIME, None)?,
    }
    let opened = open(disk.map_or(".", |_| root::UPPER));
    let unmounted = unmount(PLACE, UnmountFlags::DETACH);
    let directory = opened?;
    unmounted?;
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(Part { path, _directory: Some(directory) })
}

/// Opens what is called that where disks are mounted. A link in its place leads nowhere.
fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = openat(rustix::fs::CWD, Path::new(PLACE), flags, Mode::empty())?;
    Ok(openat(top, name, flags, Mode::empty())?)
}
