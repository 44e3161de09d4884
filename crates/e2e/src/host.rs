//! The host as it really is, seen past the daemon.

use std::{
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What the names of monitors begin with that were started before it was known for whom.
pub(crate) const SPARE: &str = "spare-";

/// Monitors whose marker begins with `prefix`: process ids and what follows the prefix. For one that was
/// started for nobody that is whose disk it has open by now, if anybody's.
pub(crate) fn monitors(prefix: &str) -> Vec<(i32, String)> {
    let wanted = format!("BHATTI_VM={prefix}");
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    let mut found: Vec<(i32, String)> = entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // Whatever ends meanwhile is no monitor any more.
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let marker = environment
                .split(|byte| *byte == 0)
                .find_map(|variable| variable.strip_prefix(wanted.as_bytes()))?;
            let name = String::from_utf8_lossy(marker).into_owned();
            let owner = name.starts_with(SPARE).then(|| owner(pid)).flatten();
            Some((pid, owner.unwrap_or(name)))
        })
        .collect();
    found.sort_unstable();
    found
}

/// The sandbox whose disk a monitor has open.
fn owner(pid: i32) -> Option<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).find_map(|path| {
        let (_, below) = path.to_str()?.split_once("/sandboxes/")?;
        Some(below.split_once('/')?.0.to_owned())
    })
}

/// Control groups of bhatti, in all hierarchies, whose name begins with `prefix`.
pub(crate) fn groups(prefix: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts can be read");
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| Path::new(at).join("bhatti"))
    });
    let groups = roots.filter_map(|root| fs::read_dir(root).ok()).flatten().filter_map(Result::ok);
    groups
        .filter(|group| group.file_name().to_string_lossy().starts_with(prefix))
        .map(|group| group.path())
        .collect()
}

/// Mount points below `directory`.
pub(crate) fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// Names in a directory; none if it is not there.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A field of `/proc/PID/status`.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn status_field(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("{field} is not in\n{status}")).trim().to_owned()
}

/// Which namespace of a kind a process is in; `self` is us.
pub fn namespace(process: &str, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("namespaces can be read")
}

/// What the descriptors of a process lead to.
pub fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors can be read");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// When a process started, which with its id tells it from any other.
pub fn process_start(pid: i32) -> io::Result<u64> {
    base::process::start_time(pid)
}

/// A small file system that is gone with this value.
#[derive(Debug)]
pub struct Tmpfs {
    at: PathBuf,
}

impl Tmpfs {
    /// Mounts one of `bytes` on a directory.
    ///
    /// # Panics
    /// If it cannot be mounted.
    pub fn on(at: &Path, bytes: u64) -> Self {
        let options = std::ffi::CString::new(format!("size={bytes},mode=0755")).expect("no NUL");
        mount(c"none", at, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
            .unwrap_or_else(|error| panic!("mount a tmpfs on {}: {error}", at.display()));
        Self { at: at.to_owned() }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What is still open keeps its files; the name is free again at once.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}
