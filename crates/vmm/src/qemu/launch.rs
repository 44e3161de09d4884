//! From a plan to a running monitor.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
    sync::Arc,
};

use base::process::Command;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::{
    Qemu, Vm,
    argv::{BaseNumbers, LayerNumbers, NicNumbers, Numbers, Start, VolumeNumbers, arguments},
    concat,
    vm::{AGENT_SOCKET, NOTICE_SOCKET, QMP_SOCKET, Stderr},
};
use crate::{Boot, Layer, Nic, Plan, VmError, Volume, jail};

/// The first descriptor number that we hand to a monitor.
const FIRST_FD: RawFd = 10;
/// Under which number a monitor holds its guest's memory file.
pub(super) const RAM_FD: RawFd = FIRST_FD;
/// How much of a monitor's stderr is kept, in bytes. Writes beyond it fail in the monitor, so that
/// a guest that makes it complain cannot fill the host.
const STDERR_KEPT: u64 = 64 << 10;

impl Qemu {
    /// Starts the monitor. Returns as soon as the process exists: a restored guest runs when its
    /// state is loaded, which the guest's port shows first.
    ///
    /// # Errors
    /// [`VmError`] if the process cannot be started. What goes wrong later is told by
    /// [`Vm::ended`].
    pub fn launch(&self, plan: Plan) -> Result<Vm, VmError> {
        let disk_bytes = size(&plan.disks.scratch)?;
        let mut fds = Fds::default();
        let share_ram = !plan.ram.is_sealed();
        let ram_fd =
            plan.ram.as_fd().try_clone_to_owned().map_err(VmError::io("share guest memory"))?;
        let ram = fds.add(ram_fd);
        debug_assert_eq!(ram, RAM_FD);
        let numbers = Numbers {
            ram,
            qmp: fds.add(listen(&plan.run_dir, QMP_SOCKET)?),
            agent: fds.add(listen(&plan.run_dir, AGENT_SOCKET)?),
            notice: fds.add(listen(&plan.run_dir, NOTICE_SOCKET)?),
            base: add_base(&mut fds, plan.disks.base)?,
            modules: fds.add(plan.disks.modules),
            scratch: fds.add(plan.disks.scratch),
            nic: plan.nic.map(|nic| add_nic(&mut fds, nic)),
            layers: add_layers(&mut fds, plan.disks.layers, false)?,
            volumes: add_volumes(&mut fds, plan.disks.volumes)?,
        };
        let (start, later) = match plan.boot {
            Boot::Cold { kernel, initramfs, command_line } => {
                let (kernel, initramfs) = (fds.add(kernel), fds.add(initramfs));
                (Start::Cold { kernel, initramfs, command_line }, None)
            }
            Boot::Restore { state } => (Start::Incoming { state: fds.add(state) }, None),
            Boot::RestoreLater { state } => (Start::IncomingDeferred, Some(fds.add(state))),
            Boot::Awaited => (Start::Awaited { disk_bytes }, None),
        };
        let argv = arguments(
            plan.machine,
            self.accelerator(),
            plan.ram.bytes(),
            share_ram,
            &numbers,
            &start,
        );
        let stderr = capped_file().map_err(VmError::io("make a file for stderr"))?;
        let stderr_for_child = stderr.try_clone().map_err(VmError::io("share the stderr file"))?;
        let mut command = Command::new(self.binary())
            .args(argv)
            .stdout(std::process::Stdio::null())
            .stderr(stderr_for_child);
        match &plan.confinement {
            Some(confinement) => {
                jail::confine(&mut command, confinement, self.device_group(), fds.0);
            }
            None => jail::hand_over(&mut command, fds.0),
        }
        let process = command.spawn().map_err(VmError::Spawn)?;
        let limited = plan.confinement.map(|confinement| {
            let (cgroup, pid) = (confinement.cgroup, process.pid());
            tokio::task::spawn_blocking(move || cgroup.admit(pid))
        });
        let stderr = Stderr::Kept(stderr);
        let later = later.map(|fd| fd.to_string());
        let vm = Vm::new(Arc::new(process), plan.run_dir, plan.ram, stderr, later);
        Ok(match limited {
            Some(limited) => vm.with_limits(limited),
            None => vm,
        })
    }
}

fn add_base(fds: &mut Fds, files: Vec<OwnedFd>) -> Result<BaseNumbers, VmError> {
    let sizes: Vec<u64> = files.iter().map(size).collect::<Result<_, _>>()?;
    let files: Vec<RawFd> = files.into_iter().map(|file| fds.add(file)).collect();
    if let [only] = files[..] {
        return Ok(BaseNumbers::One(only));
    }
    let described = concat::describe(files.iter().copied().zip(sizes));
    let description = described.map_err(VmError::io("describe the image's disk"))?;
    Ok(BaseNumbers::Several { description: fds.add(description), files })
}

fn add_nic(fds: &mut Fds, nic: Nic) -> NicNumbers {
    match nic {
        Nic::Tap { tap, namespace } => {
            if let Some(namespace) = namespace {
                fds.add(namespace);
            }
            NicNumbers::Tap(fds.add(tap))
        }
        Nic::User { open } => NicNumbers::User { open },
    }
}

/// The top layer comes with a second, read-only description of its file, because it must be
/// opened like that when another layer is put on top of it.
fn add_layers(
    fds: &mut Fds,
    layers: Vec<Layer>,
    read_only_disk: bool,
) -> Result<Vec<LayerNumbers>, VmError> {
    let top = layers.last().map(|layer| layer.number).filter(|_| !read_only_disk);
    let mut added = Vec::with_capacity(layers.len());
    for Layer { number, file } in layers {
        let again = match top == Some(number) {
            true => Some(read_only(&file).map_err(VmError::io("open the top layer again"))?),
            false => None,
        };
        let numbers = std::iter::once(file).chain(again).map(|fd| fds.add(fd)).collect();
        added.push(LayerNumbers { number, fds: numbers });
    }
    Ok(added)
}

fn add_volumes(fds: &mut Fds, volumes: Vec<Volume>) -> Result<Vec<VolumeNumbers>, VmError> {
    let add = |volume| {
        Ok(match volume {
            Volume::Awaited { read_only } => VolumeNumbers::Awaited { read_only },
            Volume::Kept { raw, layers, read_only } => VolumeNumbers::Kept {
                raw: fds.add(raw),
                layers: add_layers(fds, layers, read_only)?,
                read_only,
            },
        })
    };
    volumes.into_iter().map(add).collect()
}

fn size(file: &OwnedFd) -> Result<u64, VmError> {
    let stat = rustix::fs::fstat(file).map_err(|e| VmError::io("look at the disk")(e.into()))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// The same file, opened once more and only for reading.
pub(super) fn read_only(file: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fs_err::File::open(path)?.into_parts().0.into())
}

#[derive(Debug, Default)]
struct Fds(Vec<(OwnedFd, RawFd)>);

impl Fds {
    fn add(&mut self, fd: OwnedFd) -> RawFd {
        let number = FIRST_FD + RawFd::try_from(self.0.len()).unwrap_or(0);
        self.0.push((fd, number));
        number
    }
}

/// A socket that we bind and the monitor serves, so that the monitor needs no access to its
/// directory.
fn listen(run_dir: &Path, name: &str) -> Result<OwnedFd, VmError> {
    let path = run_dir.join(name);
    match fs_err::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(VmError::io("remove a stale control socket")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(VmError::io("make a control socket"))?;
    Ok(listener.into())
}

fn capped_file() -> io::Result<File> {
    let file = memfd_create("bhatti-stderr", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, STDERR_KEPT)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}
