//! What a daemon of an ordinary user can do to confine a monitor.
//!
//! A user namespace with one id in it, the user's own, gives the means to make the others: what the
//! user owns is covered, and neither the daemon nor other monitors can be looked into, because
//! they are outside. The means are gone with `exec`. What is missing next to root's: the monitor has the
//! user's id and groups, sees other processes' names, may signal the user's, and its memory is limited
//! by what it may map, not by a control group.
//!
//! A host may forbid users to make namespaces. Then there is nothing but limits and the monitor's own
//! system call filter.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

use base::process::{Command, ProcessError};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, mount, mount_remount},
    process::{Resource, Rlimit, setrlimit},
    thread::UnshareFlags,
};

use super::{COVER, Confinement, Walls};
use crate::cgroup::Cgroup;

/// Memory that a monitor may map besides its guest's, MiB: stacks of all its threads, mostly, of which
/// next to nothing is ever used.
const MONITOR_MAPS_MIB: u64 = 2048;
/// Whom programs ask for the addresses of names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// See the module.
#[derive(Debug, Clone)]
pub struct UserWalls {
    /// Whether namespaces are made. Only if the host lets users make them; see
    /// [`possible`](Self::possible).
    pub namespaces: bool,
    /// Whether it stays in its daemon's network, and so can pass connections of its guest on. Without
    /// namespaces it stays there in any case.
    pub network: bool,
    /// The guest's memory, MiB.
    pub memory_mib: u64,
}

impl UserWalls {
    /// Tries whether the host lets a user make the namespaces. Blocks for some milliseconds.
    ///
    /// # Errors
    /// What the host says to it.
    pub fn possible() -> Result<(), ProcessError> {
        let confinement = Confinement {
            walls: Walls::User(Self { namespaces: true, network: false, memory_mib: 0 }),
            covered: Vec::new(),
            cgroup: Cgroup::default(),
            marker: "none".to_owned(),
        };
        let mut command = Command::new("true");
        super::confine(&mut command, &confinement, None, Vec::new());
        command.output().map(drop)
    }
}

/// Everything that the child needs, allocated before the fork.
pub(super) struct Prepared {
    namespaces: Option<UnshareFlags>,
    /// Files of `/proc/self` and what is written to them, in this order.
    ids: [(&'static str, String); 3],
    names: Option<Names>,
    /// Bytes.
    maps: u64,
}

impl Prepared {
    pub(super) fn new(walls: &UserWalls) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let all = UnshareFlags::NEWUSER
            | UnshareFlags::NEWNS
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS;
        let all = if walls.network { all } else { all | UnshareFlags::NEWNET };
        Self {
            namespaces: walls.namespaces.then_some(all),
            ids: [
                ("/proc/self/setgroups", "deny".to_owned()),
                ("/proc/self/uid_map", format!("{uid} {uid} 1")),
                ("/proc/self/gid_map", format!("{gid} {gid} 1")),
            ],
            names: walls.network.then(|| Names::of(Path::new(RESOLV_CONF))).flatten(),
            maps: (walls.memory_mib + MONITOR_MAPS_MIB) << 20,
        }
    }

    pub(super) fn enter(&self, covered: &[CString]) -> io::Result<()> {
        if let Some(namespaces) = self.namespaces {
            #[expect(deprecated, reason = "a forked child has one thread")]
            rustix::thread::unshare(namespaces)?;
            for (path, content) in &self.ids {
                write(*path, content.as_bytes(), OFlags::empty())?;
            }
            super::cover(covered)?;
            if let Some(names) = &self.names {
                names.uncover()?;
            }
        }
        setrlimit(Resource::Data, Rlimit { current: Some(self.maps), maximum: Some(self.maps) })?;
        Ok(())
    }
}

/// The file that says whom to ask for names, put back if it lies in what was covered, as where
/// `/etc/resolv.conf` leads to `/run`.
struct Names {
    /// The covered directory.
    top: CString,
    /// Directories below it that lead to the file, highest first.
    directories: Vec<CString>,
    file: CString,
    content: Vec<u8>,
}

impl Names {
    fn of(path: &Path) -> Option<Self> {
        let file = fs_err::canonicalize(path).ok()?;
        let top = super::COVERED.iter().map(Path::new).find(|top| file.starts_with(top))?;
        let content = fs_err::read(&file).ok()?;
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).ok();
        let mut directories: Vec<CString> = file
            .ancestors()
            .skip(1)
            .take_while(|directory| *directory != top)
            .filter_map(text)
            .collect();
        directories.reverse();
        Some(Self { top: text(top)?, directories, file: text(&file)?, content })
    }

    fn uncover(&self) -> io::Result<()> {
        // Over the one that is there, which nobody can write to.
        mount(c"none", &self.top, c"tmpfs", COVER, c"size=64k,mode=755")?;
        for directory in &self.directories {
            rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755))?;
        }
        write(&self.file, &self.content, OFlags::CREATE)?;
        mount_remount(&self.top, COVER | MountFlags::RDONLY, c"")?;
        Ok(())
    }
}

/// Writes a file in one go. Allocates nothing if the path is short.
fn write(path: impl rustix::path::Arg, content: &[u8], how: OFlags) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | how;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
    match rustix::io::write(&file, content)? == content.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    /// Runs a shell's line where `/tmp` is covered.
    #[expect(unsafe_code, reason = "code between fork and exec cannot be written without it")]
    fn inside(line: &str, names: Option<Names>) -> Result<String, ProcessError> {
        let walls = UserWalls { namespaces: true, network: true, memory_mib: 64 };
        let prepared = Prepared { names, ..Prepared::new(&walls) };
        let mut command = Command::new("sh").args(["-c", line]);
        // SAFETY: as in `super::super::confine`.
        unsafe {
            command.as_std_mut().pre_exec(move || prepared.enter(&[c"/tmp".to_owned()]));
        }
        command.output().map(|said| String::from_utf8_lossy(&said).trim().to_owned())
    }

    #[test]
    fn whom_to_ask_for_names_is_put_back_and_nothing_else() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let below = directory.path().join("a/b");
        fs_err::create_dir_all(&below).unwrap();
        fs_err::write(below.join("secret"), "secret").unwrap();
        let file = below.join("resolv.conf");
        fs_err::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let link = directory.path().join("link");
        fs_err::os::unix::fs::symlink(&file, &link).unwrap();
        let names = Names::of(&link).unwrap();
        let look = format!("cat {}; find /tmp -type f; echo x > /tmp/x || echo no", file.display());
        let seen = inside(&look, Some(names)).unwrap();
        assert_eq!(seen, format!("nameserver 192.0.2.1\n{}\nno", file.display()));
        assert_eq!(inside("find /tmp", None).unwrap(), "/tmp");
        assert!(Names::of(Path::new("/etc/passwd")).is_none(), "it is not covered");
    }

    #[test]
    fn who_may_make_namespaces_finds_that_out() {
        UserWalls::possible().unwrap();
    }
}
