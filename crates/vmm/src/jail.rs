//! What a monitor may do and see.
//!
//! The child confines itself between `fork` and `exec`, with system calls only: its own session,
//! mount, IPC and UTS namespaces, a network namespace without interfaces, an own uid
//! without capabilities and without the means to gain any. Directories that hold other sandboxes'
//! data are covered by an empty file system, other processes are not listed in `/proc`.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    sync::Arc,
};

use base::process::Command;
use rustix::{
    fs::Mode,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Gid, Pid, Resource, Rlimit, Uid, setrlimit, setsid, umask},
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_no_new_privs,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::cgroup::Cgroup;

/// Host directories that no monitor needs.
const COVERED: [&str; 6] = ["/home", "/root", "/tmp", "/run", "/srv", "/mnt"];

/// Under which limits a monitor runs.
#[derive(Debug)]
pub struct Confinement {
    /// User and group id that no other process has.
    pub uid: u32,
    /// Directories to cover besides those that no monitor needs.
    pub covered: Vec<std::path::PathBuf>,
    /// The monitor's control group.
    pub cgroup: Cgroup,
    /// The network namespace to enter.
    pub network: NetworkNamespace,
    /// Set in the monitor's environment as [`MARKER`], so that a later daemon can find monitors
    /// that it has no record of.
    pub marker: String,
}

/// The environment variable that marks a monitor; see [`marked`].
const MARKER: &str = "BHATTI_VM";

/// Process ids and markers of all monitors on this host whose marker starts with `prefix`.
pub fn marked(prefix: &str) -> io::Result<Vec<(i32, String)>> {
    let wanted = format!("{MARKER}={prefix}");
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process may be gone by now, which is as good as not being ours.
        let Ok(environ) = fs_err::read(format!("/proc/{pid}/environ")) else { continue };
        let marker = environ
            .split(|b| *b == 0)
            .filter_map(|var| std::str::from_utf8(var).ok())
            .find(|var| var.starts_with(&wanted));
        if let Some(marker) = marker {
            found.push((pid, marker[MARKER.len() + 1..].to_owned()));
        }
    }
    Ok(found)
}

/// A network namespace with nothing in it, not even a configured loopback.
#[derive(Debug, Clone)]
pub struct NetworkNamespace(Arc<OwnedFd>);

impl NetworkNamespace {
    /// Makes a new one; it lives as long as a handle or a process in it.
    pub fn empty() -> io::Result<Self> {
        let made = std::thread::spawn(|| -> io::Result<OwnedFd> {
            #[expect(
                deprecated,
                reason = "the thread shares no file descriptors state afterwards"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Ok(fs_err::File::open("/proc/thread-self/ns/net")?.into_parts().0.into())
        });
        let fd = made.join().map_err(|_| io::Error::other("the namespace thread panicked"))??;
        Ok(Self(Arc::new(fd)))
    }
}

/// Makes `command` confine itself and gives it `fds`, each under the number asked for. `group` is
/// the one group besides its own that it is in.
#[expect(unsafe_code, reason = "code between fork and exec cannot be written without it")]
pub(crate) fn confine(
    command: &mut Command,
    confinement: &Confinement,
    group: Option<u32>,
    fds: Vec<(OwnedFd, RawFd)>,
) {
    command.as_std_mut().env(MARKER, &confinement.marker);
    let groups = group.map(Gid::from_raw).into_iter().collect();
    let jail = Prepared::new(confinement, groups, fds);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `Prepared::enter`
    // makes plain system calls on data that was allocated before the fork, and allocates nothing.
    unsafe {
        command.as_std_mut().pre_exec(move || jail.enter());
    }
}

/// Gives `command` its `fds`, each under the number asked for, and no limits at all.
#[expect(unsafe_code, reason = "code between fork and exec cannot be written without it")]
pub(crate) fn hand_over(command: &mut Command, fds: Vec<(OwnedFd, RawFd)>) {
    // SAFETY: as in `confine`.
    unsafe {
        command.as_std_mut().pre_exec(move || place_fds(&fds));
    }
}

/// Everything that the child needs, allocated before the fork.
struct Prepared {
    parent: Option<Pid>,
    uid: u32,
    groups: Vec<Gid>,
    covered: Vec<CString>,
    network: NetworkNamespace,
    fds: Vec<(OwnedFd, RawFd)>,
}

impl Prepared {
    fn new(confinement: &Confinement, groups: Vec<Gid>, fds: Vec<(OwnedFd, RawFd)>) -> Self {
        let covered = COVERED
            .iter()
            .map(Path::new)
            .chain(confinement.covered.iter().map(std::path::PathBuf::as_path))
            .filter(|p| p.is_dir())
            .filter_map(|p| CString::new(p.as_os_str().as_bytes()).ok())
            .collect();
        let (uid, network) = (confinement.uid, confinement.network.clone());
        let parent = Some(rustix::process::getpid());
        Self { parent, uid, groups, covered, network, fds }
    }

    fn enter(&self) -> io::Result<()> {
        setsid()?;
        umask(Mode::from_raw_mode(0o077));
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        #[expect(deprecated, reason = "a forked child has one thread")]
        rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)?;
        move_into_link_name_space(self.network.0.as_fd(), Some(LinkNameSpaceType::Network))?;
        self.cover()?;
        rustix::process::chdir(c"/")?;
        place_fds(&self.fds)?;
        set_thread_groups(&self.groups)?;
        let gid = Gid::from_raw(self.uid);
        let uid = Uid::from_raw(self.uid);
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        set_no_new_privs(true)?;
        // Without its daemon nobody has written down that this monitor exists, and until it runs
        // its program it does not carry the marker by which the next daemon would find it.
        if rustix::process::getppid() != self.parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn cover(&self) -> io::Result<()> {
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        for path in &self.covered {
            // A covered directory may lie in one that is covered already.
            match mount(c"none", path, c"tmpfs", flags | MountFlags::RDONLY, c"size=4k,mode=755") {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let hide: &CStr = c"hidepid=invisible";
        mount(c"none", c"/proc", c"proc", flags, hide)?;
        Ok(())
    }
}

/// Moves every descriptor out of the way first, so that no target overwrites a source.
fn place_fds(fds: &[(OwnedFd, RawFd)]) -> io::Result<()> {
    const ABOVE: RawFd = 200;
    for (slot, (fd, _)) in fds.iter().enumerate() {
        let parked = ABOVE + RawFd::try_from(slot).unwrap_or(0);
        dup_to(fd, parked, true)?;
    }
    for (slot, (_, target)) in fds.iter().enumerate() {
        let parked = ABOVE + RawFd::try_from(slot).unwrap_or(0);
        dup_parked(parked, *target)?;
    }
    Ok(())
}

/// Duplicates onto a number that nothing in this process owns.
#[expect(unsafe_code, reason = "a descriptor number has to be chosen by us")]
fn dup_to(fd: &OwnedFd, number: RawFd, close_on_exec: bool) -> io::Result<()> {
    // SAFETY: the child owns all of its descriptor table after the fork; the temporary owner is
    // forgotten, so the number stays open.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    let flags =
        if close_on_exec { rustix::io::DupFlags::CLOEXEC } else { rustix::io::DupFlags::empty() };
    rustix::io::dup3(fd, &mut target, flags).map_err(io::Error::from)
}

#[expect(unsafe_code, reason = "see dup_to")]
fn dup_parked(parked: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: `parked` was opened by `place_fds` just before and is not closed here.
    let parked = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(parked) });
    debug_assert_ne!(parked.as_raw_fd(), number);
    dup_to(&parked, number, false)
}
