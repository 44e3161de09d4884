//! What programs expect of a running system, inside the new root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{sethostname, sysinfo};

use super::root::{make_directory, mount_on};
use super::{BootError, Doing};
use crate::interface::Network;
use crate::{identity, log};

/// Until the guest is told its name.
const HOSTNAME: &str = "bhatti";

/// Where the files that `/etc` shows of the identity are.
const IDENTITY: &str = "/run/bhatti/identity";

/// Open files that a process may have, at once and at most.
const FILES: (u64, u64) = (65_536, 1_048_576);

const CONTROLLERS: [&str; 6] = ["+cpu", "+cpuset", "+io", "+memory", "+pids", "+hugetlb"];

/// Mounts, limits, loopback, name.
pub(super) fn set_up(modules: Option<&Path>) -> Result<(), BootError> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    let quieter = quiet | MountFlags::NOEXEC;
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_on("devpts", "/dev/pts", "devpts", terminals, "gid=5,mode=0620,ptmxmode=0666")?;
    mount_on("tmpfs", "/dev/shm", "tmpfs", quiet, &sized("1777", 2))?;
    mount_on("tmpfs", "/run", "tmpfs", quiet, &sized("0755", 4))?;
    make_directory("/run/lock")?;
    make_directory("/tmp")?;
    open_to_all("/tmp")?;
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")]
        .map(|(name, number)| (format!("/dev/{name}"), format!("/proc/self/fd{number}")))
    {
        // There already if the kernel made it.
        let _ = symlink(target, name);
    }
    match mount_on("cgroup2", "/sys/fs/cgroup", "cgroup2", quieter, "nsdelegate") {
        Ok(()) => delegate_controllers(),
        Err(error) => log::warn(&error.to_string()),
    }
    if let Some(device) = modules {
        make_directory("/lib/modules")?;
        mount(device, "/lib/modules", "erofs", MountFlags::RDONLY, c"")
            .doing(|| format!("mount {} on /lib/modules", device.display()))?;
    }
    let network = Network::new().doing(|| "make a socket".to_owned())?;
    network.loopback_up().doing(|| "bring loopback up".to_owned())?;
    network.prepare().doing(|| "bring the network interface up".to_owned())?;
    sethostname(HOSTNAME.as_bytes()).doing(|| "set the host name".to_owned())?;
    identity_files()?;
    let limit = Rlimit { current: Some(FILES.0), maximum: Some(FILES.1) };
    setrlimit(Resource::Nofile, limit).doing(|| "set the limit of open files".to_owned())?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    Ok(())
}

/// The options of a file system in memory that may take one part in `parts` of what is free now. By itself it may
/// take half of all memory, of which the kernel and this agent have most in a small guest: who filled two of
/// them left so little that the kernel ended every process and then gave up.
fn sized(mode: &str, parts: u64) -> String {
    let now = sysinfo();
    let free = now.freeram.saturating_mul(now.mem_unit.into());
    format!("mode={mode},size={}k", (free / parts) >> 10)
}

/// Everybody may make files here, and remove only his own.
fn open_to_all(path: &str) -> Result<(), BootError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777))
        .doing(|| format!("set permissions of {path}"))
}

fn delegate_controllers() {
    for controller in CONTROLLERS {
        // One that the kernel lacks is no loss to the others.
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", controller);
    }
}

/// Puts the files that say who this machine is into memory, where a child of a template can be
/// given its own in microseconds: on the disk the same three small files take an emulated guest
/// tens of milliseconds, most of it in the journal. They are written anew at each boot.
fn identity_files() -> Result<(), BootError> {
    make_directory(IDENTITY)?;
    make_directory("/etc")?;
    let hosts = fs::read("/etc/hosts").unwrap_or_default();
    // As short as can be: what is only ever made longer need not be cut first.
    in_memory("hosts", &identity::nameless_hosts(&String::from_utf8_lossy(&hosts)))?;
    in_memory("hostname", "")?;
    in_memory("resolv.conf", "")?;
    in_memory("machine-id", "")
}

/// Mounts a file in memory over the one in `/etc`. A link in its place, as some images have, would
/// lead elsewhere, so it becomes a plain file.
fn in_memory(name: &str, content: &str) -> Result<(), BootError> {
    let (file, target) = (format!("{IDENTITY}/{name}"), format!("/etc/{name}"));
    let doing = || format!("put {target} into memory");
    fs::write(&file, content).doing(doing)?;
    match fs::symlink_metadata(&target) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => {
            fs::remove_file(&target).doing(doing)?;
            fs::write(&target, "").doing(doing)?;
        }
        Err(_) => fs::write(&target, "").doing(doing)?,
    }
    mount_bind(file.as_str(), target.as_str()).doing(doing)
}
