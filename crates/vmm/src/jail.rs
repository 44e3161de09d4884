//! What a monitor may do and see.
//!
//! The child confines itself between `fork` and `exec`, with system calls only: its own session,
//! mount, IPC and UTS namespaces, a network namespace without interfaces, an own uid
//! without capabilities and without the means to gain any. Directories that hold other sandboxes'
//! data are covered by an empty file system, other processes are not listed in `/proc`.
//!
//! That is what root can do. What a user can is in [`user`].

mod user;

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd},
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

pub use self::user::UserWalls;
use crate::cgroup::Cgroup;

/// Host directories that no monitor needs.
const COVERED: [&str; 6] = ["/home", "/root", "/tmp", "/run", "/srv", "/mnt"];

/// Under which limits a monitor runs.
#[derive(Debug)]
pub struct Confinement {
    /// What keeps it apart from everything else.
    pub walls: Walls,
    /// Directories to cover besides those that no monitor needs.
    pub covered: Vec<std::path::PathBuf>,
    /// The monitor's control group.
    pub cgroup: Cgroup,
    /// Set in the monitor's environment as [`MARKER`], so that a later daemon can find monitors
    /// that it has no record of.
    pub marker: String,
}

/// What keeps a monitor apart from everything else.
#[derive(Debug, Clone)]
pub enum Walls {
    /// What a daemon that is root gives its monitors.
    Root {
        /// User and group id that no other process has.
        uid: u32,
        /// The network namespace to enter.
        network: NetworkNamespace,
    },
    /// What a daemon of an ordinary user can give them.
    User(UserWalls),
}

/// Whether this process is root, on which depends what its monitors can be given.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
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
    walls: PreparedWalls,
    covered: Vec<CString>,
    fds: Vec<(OwnedFd, RawFd)>,
}

enum PreparedWalls {
    Root { uid: u32, groups: Vec<Gid>, network: NetworkNamespace },
    User(user::Prepared),
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
        let walls = match &confinement.walls {
            Walls::Root { uid, network } => {
                PreparedWalls::Root { uid: *uid, groups, network: network.clone() }
            }
            Walls::User(walls) => PreparedWalls::User(user::Prepared::new(walls)),
        };
        let parent = Some(rustix::process::getpid());
        Self { parent, walls, covered, fds }
    }

    fn enter(&self) -> io::Result<()> {
        setsid()?;
        umask(Mode::from_raw_mode(0o077));
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        match &self.walls {
            PreparedWalls::Root { uid, groups, network } => {
                self.enter_as_root(*uid, groups, network)?;
            }
            PreparedWalls::User(walls) => {
                walls.enter(&self.covered)?;
                rustix::process::chdir(c"/")?;
                place_fds(&self.fds)?;
            }
        }
        set_no_new_privs(true)?;
        // Without its daemon nobody has written down that this monitor exists, and until it runs
        // its program it does not carry the marker by which the next daemon would find it.
        if rustix::process::getppid() != self.parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn enter_as_root(
        &self,
        uid: u32,
        groups: &[Gid],
        network: &NetworkNamespace,
    ) -> io::Result<()> {
        #[expect(deprecated, reason = "a forked child has one thread")]
        rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)?;
        move_into_link_name_space(network.0.as_fd(), Some(LinkNameSpaceType::Network))?;
        cover(&self.covered)?;
        let hide: &CStr = c"hidepid=invisible";
        mount(c"none", c"/proc", c"proc", COVER, hide)?;
        rustix::process::chdir(c"/")?;
        place_fds(&self.fds)?;
        set_thread_groups(groups)?;
        let (gid, uid) = (Gid::from_raw(uid), Uid::from_raw(uid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }
}

/// How everything is mounted that is there for a monitor alone.
const COVER: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Puts an empty file system over each directory, in a mount namespace of our own.
fn cover(directories: &[CString]) -> io::Result<()> {
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for path in directories {
        // A covered directory may lie in one that is covered already.
        match mount(c"none", path, c"tmpfs", COVER | MountFlags::RDONLY, c"size=4k,mode=755") {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Most descriptors that a monitor is given.
const FDS_MAX: usize = 128;

/// Moves every descriptor out of the way first, so that no target overwrites a source. Allocates
/// nothing.
fn place_fds(fds: &[(OwnedFd, RawFd)]) -> io::Result<()> {
    let Some(above) = fds.iter().map(|(_, target)| target + 1).max() else { return Ok(()) };
    let mut parked = [const { None }; FDS_MAX];
    if fds.len() > parked.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for ((fd, _), place) in fds.iter().zip(&mut parked) {
        // The kernel takes a number that is free: this process has inherited as many as its parent.
        *place = Some(rustix::io::fcntl_dupfd_cloexec(fd, above)?);
    }
    for ((_, target), parked) in fds.iter().zip(&parked) {
        if let Some(parked) = parked {
            dup_to(parked, *target)?;
        }
    }
    Ok(())
}

/// Duplicates onto a number that nothing in this process owns, to stay open in the program.
#[expect(unsafe_code, reason = "a descriptor number has to be chosen by us")]
fn dup_to(fd: &OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: the child owns all of its descriptor table after the fork; the temporary owner is
    // forgotten, so the number stays open.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup3(fd, &mut target, rustix::io::DupFlags::empty()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
    };

    use super::*;

    /// A process that has many files open, as one that serves many connections.
    #[test]
    #[expect(unsafe_code, reason = "what is placed is looked at by number")]
    fn each_descriptor_gets_its_number_whatever_is_open() {
        let _crowd: Vec<File> = (0..600).map(|_| tempfile::tempfile().unwrap()).collect();
        let fds: Vec<(OwnedFd, RawFd)> = (0..20)
            .map(|n| {
                let mut file = tempfile::tempfile().unwrap();
                write!(file, "{n}").unwrap();
                (file.into(), 100 + n)
            })
            .collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        // In a descriptor table of its own, as a forked child has.
        let placing = std::thread::spawn(move || {
            #[expect(deprecated, reason = "the thread ends directly afterwards")]
            rustix::thread::unshare(UnshareFlags::FILES).unwrap();
            place_fds(&fds).unwrap();
            for (_, number) in &fds {
                // SAFETY: it was placed just now and belongs to nobody else.
                let mut file = File::from(unsafe { OwnedFd::from_raw_fd(*number) });
                let mut text = String::new();
                file.rewind().unwrap();
                file.read_to_string(&mut text).unwrap();
                sender.send((number - 100, text)).unwrap();
                std::mem::forget(file);
            }
            std::mem::forget(fds);
        });
        placing.join().unwrap();
        let found: Vec<(RawFd, String)> = receiver.iter().collect();
        assert_eq!(found.len(), 20);
        for (number, text) in found {
            assert_eq!(number.to_string(), text);
        }
    }
}
