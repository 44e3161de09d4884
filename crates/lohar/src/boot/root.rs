//! Putting the root file system together and moving into it.

use std::fs;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

use super::devices::Found;
use super::{BootError, Doing};
use crate::sys::grow_file_system;

const BASE: &str = "/base";
const SCRATCH: &str = "/scratch";
/// What is written over the image, below the root directory of the writable disk.
pub(crate) const UPPER: &str = "upper";
const NEW_ROOT: &str = "/new";

/// What an image may be, the likeliest first.
const BASE_TYPES: [&str; 3] = ["erofs", "squashfs", "ext4"];

/// Of the file systems that the host makes on writable disks, bytes.
const EXT4_BLOCK: u64 = 4096;

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts `kind` on `target`, which is made if missing.
pub(super) fn mount_on(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), BootError> {
    make_directory(target)?;
    let options = std::ffi::CString::new(options).unwrap_or_default();
    mount(source, target, kind, flags, options.as_c_str())
        .doing(|| format!("mount {kind} on {target}"))
}

/// Makes `path` and its parents.
pub(super) fn make_directory(path: &str) -> Result<(), BootError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .doing(|| format!("make directory {path}"))
}

/// Mounts what the kernel shows of itself and its devices.
pub(super) fn mount_kernel_files() -> Result<(), BootError> {
    mount_kernel("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755")?;
    mount_kernel("proc", "/proc", PLAIN, "")?;
    mount_kernel("sysfs", "/sys", PLAIN, "")
}

fn mount_kernel(
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), BootError> {
    mount_on(kind, target, kind, flags, options)
}

/// Mounts the disks, lays one over the other and makes the result the root directory. Answers the
/// root directory of the writable disk, which has no path any more.
pub(super) fn enter(found: &Found) -> Result<OwnedFd, BootError> {
    make_directory(BASE)?;
    mount_base(&found.base)?;
    make_directory(SCRATCH)?;
    mount(found.scratch.as_path(), SCRATCH, "ext4", MountFlags::NOATIME, c"")
        .doing(|| format!("mount {} (writable disk)", found.scratch.display()))?;
    grow(&found.scratch)?;
    for directory in [UPPER, "work"] {
        make_directory(&format!("{SCRATCH}/{directory}"))?;
    }
    // The upper directory's own bits are those of the root directory to be.
    let upper = format!("{SCRATCH}/{UPPER}");
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))
        .doing(|| format!("set permissions of {upper}"))?;
    let options = format!("lowerdir={BASE},upperdir={upper},workdir={SCRATCH}/work");
    mount_on("overlay", NEW_ROOT, "overlay", MountFlags::empty(), &options)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let disk = open(SCRATCH, flags, Mode::empty()).doing(|| format!("open {SCRATCH}"))?;
    for kernel in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{kernel}");
        make_directory(&target)?;
        mount_move(kernel, target.as_str()).doing(|| format!("move {kernel}"))?;
    }
    free_initramfs();
    chdir(NEW_ROOT).doing(|| "enter the new root".to_owned())?;
    mount_move(".", "/").doing(|| "move the new root".to_owned())?;
    chroot(".").doing(|| "change the root".to_owned())?;
    chdir("/").doing(|| "enter the new root".to_owned())?;
    Ok(disk)
}

/// Makes the writable file system as large as its disk, which is larger than it if the disk is of a saved
/// image.
fn grow(device: &Path) -> Result<(), BootError> {
    let doing = || format!("grow the file system on {}", device.display());
    let bytes = fs::File::open(device).and_then(|mut disk| disk.seek(SeekFrom::End(0)));
    let bytes = bytes.doing(doing)?;
    let top = fs::File::open(SCRATCH).doing(doing)?;
    grow_file_system(top, bytes / EXT4_BLOCK).doing(doing)
}

fn mount_base(device: &Path) -> Result<(), BootError> {
    mount_image(device, BASE, MountFlags::empty())
        .doing(|| format!("mount {} (image)", device.display()))
}

/// Mounts an image, of whatever kind it is.
///
/// # Errors
/// It is of none that is known.
pub(crate) fn mount_image(device: &Path, target: &str, flags: MountFlags) -> io::Result<()> {
    let flags = flags | MountFlags::RDONLY | MountFlags::NOATIME;
    let mut last = Errno::NODEV;
    for kind in BASE_TYPES {
        match mount(device, target, kind, flags, c"") {
            Ok(()) => return Ok(()),
            // Neither a type that this kernel lacks nor one that the image is not.
            Err(errno) => last = errno,
        }
    }
    Err(io::Error::other(format!("neither of {BASE_TYPES:?}, last error: {last}")))
}

/// Gives back the memory of files that nobody can reach any more.
fn free_initramfs() {
    // What cannot be removed only wastes memory.
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
}
