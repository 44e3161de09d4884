//! Disks that outlive the sandbox: mounted when the guest becomes somebody, frozen before it is put away.
//!
//! What a template was recorded with has the place of a volume and holds nothing; the real one is
//! there when the guest is restored. So nothing may be believed that was read of the device before.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::message::{ErrorCode, MountVolume, Request, WireError};
use rustix::fs::{AtFlags, Mode, OFlags, chownat, fstat, fstatvfs, open, stat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, unmount,
};
use tokio::task::spawn_blocking;

use crate::agent::{Agent, lock, refuse};
use crate::boot::devices;
use crate::sys;
use crate::users::Users;

/// What a volume's device says of itself, before its number.
const SERIAL: &str = "bhatti-volume-";

/// How long a device may take to be as large as the host says.
const GROWS_WITHIN: Duration = Duration::from_secs(10);

/// Where the agent has files that it cannot wait for, while volumes are frozen least of all. Links in the
/// image may lead a volume there.
const OWN: [&str; 4] = ["", "etc", "run", "var/log"];

/// What is in an empty file system.
const LOST_AND_FOUND: &str = "lost+found";

/// What an ext4's superblock is known by.
const MAGIC: u16 = 0xef53;

/// Bytes that the kernel counts a disk's size in.
const SECTOR: u64 = 512;

/// The volumes of this guest.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    mounted: Mutex<Vec<Arc<Volume>>>,
    /// Whether they are to be frozen. A thaw that comes while something is still being written wins.
    freezing: AtomicBool,
}

#[derive(Debug)]
struct Volume {
    slot: u32,
    device: PathBuf,
    read_only: bool,
    /// Its root directory, by which it is found whatever is done to its mount.
    root: OwnedFd,
}

/// Does what the host asks of volumes.
///
/// # Errors
/// [`ErrorCode::Unclean`] for one that cannot be made whole because it is only to be read; others name
/// what failed.
pub(crate) async fn serve(agent: &Arc<Agent>, request: Request) -> Result<(), WireError> {
    match request {
        Request::MountVolumes { volumes } => mount_all(agent, volumes).await,
        Request::FreezeVolumes => freeze(agent).await,
        Request::ThawVolumes => {
            agent.volumes.thaw();
            Ok(())
        }
        Request::GrowVolume { slot, bytes } => grow(agent, slot, bytes).await,
        _ => Err(refuse(ErrorCode::Unsupported, "this is about no volume")),
    }
}

/// Mounts volumes: all, or none.
async fn mount_all(agent: &Arc<Agent>, wanted: Vec<MountVolume>) -> Result<(), WireError> {
    let agent = Arc::clone(agent);
    blocking(move || {
        let mut mounted = Vec::new();
        for volume in &wanted {
            match mount_one(&agent, volume) {
                Ok(one) => mounted.push(Arc::new(one)),
                Err(error) => {
                    drop(mounted);
                    for earlier in wanted.iter().take_while(|earlier| earlier.slot != volume.slot) {
                        // That the first could not be mounted is told.
                        let _ = unmount(earlier.target.as_str(), UnmountFlags::DETACH);
                    }
                    return Err(error);
                }
            }
        }
        *lock(&agent.volumes.mounted) = mounted;
        Ok(())
    })
    .await
}

fn mount_one(agent: &Agent, wanted: &MountVolume) -> Result<Volume, WireError> {
    let MountVolume { slot, target, read_only, bytes } = wanted;
    let failed = |what: &str, error: io::Error| {
        let code = match error.raw_os_error() == Some(Errno::ROFS.raw_os_error()) {
            true => ErrorCode::Unclean,
            false => ErrorCode::Failed,
        };
        let why = match code {
            ErrorCode::Unclean => "its last writer did not unmount it".to_owned(),
            _ => format!("{what}: {error}"),
        };
        refuse(code, format!("the volume at {target} cannot be mounted: {why}"))
    };
    let device = find(*slot).ok_or_else(|| {
        refuse(ErrorCode::Failed, format!("the volume at {target} has no device"))
    })?;
    let block = File::open(&device).map_err(|error| failed("open its device", error))?;
    sys::forget_blocks(&block).map_err(|error| failed("forget what was read of it", error))?;
    sys::set_read_only(&block, *read_only).map_err(|error| failed("protect it", error))?;
    drop(block);
    let place = below(&agent.root, target);
    fs::create_dir_all(&place).map_err(|error| failed("make the directory", error))?;
    let access = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::NODEV | MountFlags::NOATIME | access;
    mount(device.as_path(), place.as_path(), "ext4", flags, None::<&CStr>)
        .map_err(|errno| failed("mount it", errno.into()))?;
    let looked_at = look(agent, &place, &device, *read_only, *bytes);
    if looked_at.is_err() {
        let _ = unmount(place.as_path(), UnmountFlags::DETACH);
    }
    let root = looked_at.map_err(|error| failed("use it", error))?;
    Ok(Volume { slot: *slot, device, read_only: *read_only, root })
}

/// Looks whether what is mounted is what was meant, and makes it as it is to be.
fn look(
    agent: &Agent,
    place: &Path,
    device: &Path,
    read_only: bool,
    bytes: u64,
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(place, flags, Mode::empty())?;
    let number = stat(device)?.st_rdev;
    if fstat(&root)?.st_dev != number {
        return Err(io::Error::other("something else is mounted there"));
    }
    for own in OWN {
        if stat(agent.root.join(own)).is_ok_and(|its| its.st_dev == number) {
            let message = format!("/{own} would lie on it, which the agent needs");
            return Err(io::Error::other(message));
        }
    }
    if !read_only {
        grow_to(&root, device, bytes)?;
        give_away(&agent.users, place, &root)?;
    }
    Ok(root)
}

/// An empty file system belongs to whoever commands run as; one that anybody has used stays as it is.
fn give_away(users: &Users, place: &Path, root: &OwnedFd) -> io::Result<()> {
    let meta = fs::metadata(place)?;
    if meta.uid() != 0 || meta.gid() != 0 {
        return Ok(());
    }
    for entry in fs::read_dir(place)? {
        if entry?.file_name() != LOST_AND_FOUND {
            return Ok(());
        }
    }
    let Some(user) = users.find(None) else { return Ok(()) };
    Ok(chownat(root, c"", Some(user.uid), Some(user.gid), AtFlags::EMPTY_PATH)?)
}

/// Makes a file system fill `bytes`. One that does already is not asked: the kernel flushes its journal
/// even if there is nothing to do.
fn grow_to(root: &OwnedFd, device: &Path, bytes: u64) -> io::Result<()> {
    let wanted = bytes / fstatvfs(root)?.f_frsize.max(1);
    if blocks(&File::open(device)?)? >= wanted {
        return Ok(());
    }
    sys::grow_file_system(root, wanted)
}

/// Whether a device holds an ext4, by its superblock.
fn is_ext4(device: &File) -> io::Result<bool> {
    Ok(superblock(device)?[0x38..0x3a] == MAGIC.to_le_bytes())
}

fn superblock(device: &File) -> io::Result<[u8; 1024]> {
    let mut superblock = [0; 1024];
    device.read_exact_at(&mut superblock, 1024)?;
    Ok(superblock)
}

/// How many blocks an ext4 has, by its superblock.
fn blocks(device: &File) -> io::Result<u64> {
    let superblock = superblock(device)?;
    let half = |at: usize| {
        let bytes = superblock[at..].first_chunk().copied().unwrap_or_default();
        u64::from(u32::from_le_bytes(bytes))
    };
    Ok(half(0x150) << 32 | half(4))
}

/// Makes the file system of a volume larger, once its device is.
async fn grow(agent: &Arc<Agent>, slot: u32, bytes: u64) -> Result<(), WireError> {
    let found = lock(&agent.volumes.mounted).iter().find(|volume| volume.slot == slot).cloned();
    let volume = found.filter(|volume| !volume.read_only).ok_or_else(|| {
        refuse(ErrorCode::Invalid, format!("there is no volume {slot} that could grow"))
    })?;
    blocking(move || {
        let grown = wait_for_size(&volume.device, bytes)
            .and_then(|()| grow_to(&volume.root, &volume.device, bytes));
        grown.map_err(|error| refuse(ErrorCode::Failed, format!("grow the file system: {error}")))
    })
    .await
}

/// Waits until the kernel knows that a device is this large: the monitor tells it by an interrupt.
fn wait_for_size(device: &Path, bytes: u64) -> io::Result<()> {
    let events = devices::Events::listen().map_err(io::Error::other)?;
    let name = device.file_name().unwrap_or_default();
    let size = Path::new("/sys/block").join(name).join("size");
    let begin = Instant::now();
    loop {
        let sectors: u64 = fs::read_to_string(&size)?.trim().parse().unwrap_or(0);
        if sectors.saturating_mul(SECTOR) >= bytes {
            return Ok(());
        }
        if !events.wait(GROWS_WITHIN.saturating_sub(begin.elapsed()))? {
            return Err(io::Error::other("the device did not become larger"));
        }
    }
}

/// Has everything on the volumes, whole, and nobody write to them until they are thawed. If one cannot be
/// written none is frozen.
async fn freeze(agent: &Arc<Agent>) -> Result<(), WireError> {
    agent.volumes.freezing.store(true, Ordering::SeqCst);
    let frozen = Arc::clone(agent);
    let frozen = blocking(move || {
        let volumes = lock(&frozen.volumes.mounted).clone();
        for volume in volumes.iter().filter(|volume| !volume.read_only) {
            match sys::freeze(&volume.root) {
                // It is already.
                Ok(()) | Err(Errno::BUSY) => {}
                Err(errno) => {
                    let message = format!("write to volume {}: {errno}", volume.slot);
                    return Err(refuse(ErrorCode::Failed, message));
                }
            }
        }
        // Whoever asked may have gone while it was being written.
        if !frozen.volumes.freezing.load(Ordering::SeqCst) {
            frozen.volumes.thaw();
        }
        Ok(())
    })
    .await;
    if frozen.is_err() {
        agent.volumes.thaw();
    }
    frozen
}

impl Volumes {
    /// Lets the volumes be written to again. Does not wait for anything: those who wait for the disk may
    /// wait for this.
    pub(crate) fn thaw(&self) {
        self.freezing.store(false, Ordering::SeqCst);
        for volume in lock(&self.mounted).iter().filter(|volume| !volume.read_only) {
            // One that is not frozen is as it should be.
            let _ = sys::thaw(&volume.root);
        }
    }

    /// Leaves the volumes as if they had been unmounted, when the guest is about to be turned off.
    pub(crate) fn put_away(&self) {
        for volume in lock(&self.mounted).iter().filter(|volume| !volume.read_only) {
            // Otherwise the journal makes it whole.
            let _ = sys::freeze(&volume.root);
        }
    }

    /// Whether they may be frozen.
    pub(crate) fn are_frozen(&self) -> bool {
        self.freezing.load(Ordering::SeqCst)
    }
}

/// Mounts what there is in the places of volumes, where nobody sees it, and lets it go again, so that it is
/// done faster when it counts. A place in which nothing is is left alone.
///
/// # Errors
/// If something is there that cannot be mounted.
pub(crate) async fn rehearse() -> Result<(), WireError> {
    blocking(|| {
        let mut devices = (0..).map_while(find);
        devices.try_for_each(|device| mount_for_nobody(&device)).map_err(|error| {
            refuse(ErrorCode::Failed, format!("the mount of a volume was tried: {error}"))
        })
    })
    .await
}

fn mount_for_nobody(device: &Path) -> io::Result<()> {
    let block = File::open(device)?;
    sys::forget_blocks(&block)?;
    if !is_ext4(&block)? {
        return Ok(());
    }
    sys::set_read_only(&block, false)?;
    drop(block);
    let context = fsopen(c"ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"source", device)?;
    fsconfig_create(&context)?;
    // In no name space, and unmounted when it is closed.
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    fstatvfs(&mounted)?;
    blocks(&File::open(device)?)?;
    Ok(())
}

/// The device of a volume.
pub(crate) fn find(slot: u32) -> Option<PathBuf> {
    devices::disk(&format!("{SERIAL}{slot}"))
}

fn below(root: &Path, target: &str) -> PathBuf {
    root.join(target.trim_start_matches('/'))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(refuse(ErrorCode::Failed, error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_the_kernel_writes_them() {
        let mut file = tempfile::tempfile().unwrap();
        let mut content = vec![0; 4096];
        content[1024 + 4..1024 + 8].copy_from_slice(&7_u32.to_le_bytes());
        content[1024 + 0x150..1024 + 0x154].copy_from_slice(&2_u32.to_le_bytes());
        io::Write::write_all(&mut file, &content).unwrap();
        assert_eq!(blocks(&file).unwrap(), (2 << 32) + 7);
        assert!(!is_ext4(&file).unwrap());
        file.write_all_at(&[0x53, 0xef], 1024 + 0x38).unwrap();
        assert!(is_ext4(&file).unwrap());
        file.set_len(1500).unwrap();
        assert!(blocks(&file).is_err());
    }

    #[test]
    fn a_target_is_below_the_guest_s_root() {
        assert_eq!(below(Path::new("/"), "/data/x"), Path::new("/data/x"));
        assert_eq!(below(Path::new("/tmp/guest"), "/data"), Path::new("/tmp/guest/data"));
    }
}
