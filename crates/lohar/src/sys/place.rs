//! Where a process is: in this one's name spaces, or in those of the services.
//!
//! ```text
//!   agent ── Here                    all processes, the kernel's own control groups
//!     └────── Apart: systemd         process ids, mounts and control groups of its own
//!               └── Beside           commands that join it
//! ```
//! Mounts are shared by both, but `/proc` and the control groups.
#![expect(unsafe_code, reason = "leaving a control group name space has no safe wrapper")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
    move_into_thread_name_spaces, unshare_unsafe,
};

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// Where this process is.
    Here,
    /// With others that are apart.
    Beside(&'a Beside),
    /// The first in name spaces of its own, and in this control group.
    Apart(BorrowedFd<'a>),
}

/// How to join a process that is apart.
#[derive(Debug)]
pub(crate) struct Beside {
    leader: OwnedFd,
    /// The control group of those who join.
    cgroup: OwnedFd,
    /// This process's own process ids.
    here: OwnedFd,
}

/// As long as it exists, children have the process ids of another place.
pub(super) struct Entered<'a>(&'a Beside);

impl Beside {
    /// The place of `leader`, a child that has not been reaped; whoever joins is in `cgroup`.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub(crate) fn new(leader: Pid, cgroup: OwnedFd) -> Result<Self, Errno> {
        let here = open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { leader: pidfd_open(leader, PidfdFlags::empty())?, cgroup, here })
    }
}

impl Place<'_> {
    pub(super) fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Here => None,
            Self::Beside(beside) => Some(beside.cgroup.as_fd()),
            Self::Apart(cgroup) => Some(*cgroup),
        }
    }

    /// Before the process is made: it is to have its number there too.
    pub(super) fn enter(&self) -> Result<Option<Entered<'_>>, Errno> {
        let Self::Beside(beside) = self else { return Ok(None) };
        move_into_thread_name_spaces(beside.leader.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
        Ok(Some(Entered(beside)))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // Always allowed: it is where this process is.
        let kind = Some(LinkNameSpaceType::ProcessID);
        let _ = move_into_link_name_space(self.0.here.as_fd(), kind);
    }
}

/// The rest, in the new process; only system calls.
pub(super) fn settle(place: &Place<'_>) -> Result<(), Errno> {
    match place {
        Place::Here => Ok(()),
        Place::Beside(beside) => {
            let wanted = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
            move_into_thread_name_spaces(beside.leader.as_fd(), wanted)
        }
        Place::Apart(_) => set_apart(),
    }
}

/// What the first process of new name spaces sees of processes and control groups.
fn set_apart() -> Result<(), Errno> {
    // SAFETY: no descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }?;
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/proc", alone)?;
    mount_change(c"/sys", alone)?;
    mount(c"proc", c"/proc", c"proc", QUIET, None)?;
    unmount(c"/sys/fs/cgroup", UnmountFlags::empty())?;
    mount(c"cgroup2", c"/sys/fs/cgroup", c"cgroup2", QUIET, None)
}
