//! Finding the network namespace that a VM keeps open.

use std::{os::fd::OwnedFd, os::unix::fs::MetadataExt as _, path::Path};

use base::process::start_time;

use super::VmHandle;

/// The network namespace of a running VM's interface, if it is that very VM and has one that is
/// known by it; see [`crate::Nic::namespace`].
pub fn namespace_of(vm: &VmHandle) -> Option<OwnedFd> {
    let descriptors = fs_err::read_dir(format!("/proc/{}/fd", vm.pid)).ok()?;
    let found = descriptors.flatten().find(|entry| is_namespace(&entry.path()))?;
    let namespace = fs_err::File::open(found.path()).ok()?;
    // A monitor that was taken over may hold another one, and all monitors are in one.
    let wanted = identity(&found.path())?;
    let own = format!("/proc/{}/ns/net", vm.pid);
    if ["/proc/self/ns/net", own.as_str()].iter().any(|it| identity(Path::new(it)) == Some(wanted))
    {
        return None;
    }
    // Asked last, because the number may have become another's meanwhile.
    let is_it = start_time(vm.pid).is_ok_and(|found| found == vm.start_time);
    is_it.then(|| namespace.into_parts().0.into())
}

fn identity(namespace: &Path) -> Option<(u64, u64)> {
    fs_err::metadata(namespace).ok().map(|found| (found.dev(), found.ino()))
}

fn is_namespace(descriptor: &Path) -> bool {
    let target = fs_err::read_link(descriptor).unwrap_or_default();
    target.to_string_lossy().starts_with("net:[")
}

#[cfg(test)]
mod tests {
    use fs_err::File;
    use rustix::thread::UnshareFlags;

    use super::*;

    /// This process as a monitor.
    fn own() -> VmHandle {
        let pid = i32::try_from(std::process::id()).unwrap();
        VmHandle { pid, start_time: start_time(pid).unwrap() }
    }

    /// A namespace that only its descriptor keeps.
    fn another() -> File {
        let made = std::thread::spawn(|| {
            #[expect(deprecated, reason = "the thread ends directly afterwards")]
            rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        made.join().unwrap()
    }

    #[test]
    fn a_monitor_is_not_believed_to_have_its_own_or_our_namespace() {
        assert!(namespace_of(&own()).is_none());
        let _held = File::open("/proc/self/ns/net").unwrap();
        assert!(namespace_of(&own()).is_none());
    }

    #[test]
    fn the_namespace_that_a_monitor_keeps_is_found_if_it_is_that_monitor() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: making network namespaces needs root");
            return;
        }
        let kept = another();
        let found = namespace_of(&own()).unwrap();
        let found = File::from_parts(found.into(), "found");
        let (found, kept) = (found.metadata().unwrap(), kept.metadata().unwrap());
        assert_eq!((found.dev(), found.ino()), (kept.dev(), kept.ino()));
        let VmHandle { pid, start_time } = own();
        assert!(namespace_of(&VmHandle { pid, start_time: start_time + 1 }).is_none());
    }
}
