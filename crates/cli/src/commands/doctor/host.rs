//! What the host's kernel says about its memory, its disks and its limits.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use fs_err as fs;

/// Where sandboxes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataDir {
    pub(super) path: PathBuf,
    pub(super) exists: bool,
    /// Of the file system that it is on, or will be on.
    pub(super) free_bytes: u64,
    pub(super) file_system: String,
    /// Whether files can share blocks; `None` if that could not be tried.
    pub(super) reflinks: Option<bool>,
}

/// The host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) available_bytes: u64,
    /// `vm.overcommit_memory`: 0 by judgement, 1 always, 2 never.
    pub(super) overcommit: u8,
}

pub(super) fn memory() -> Memory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let overcommit = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    Memory {
        total_bytes: meminfo(&text, "MemTotal"),
        available_bytes: meminfo(&text, "MemAvailable"),
        overcommit: overcommit.trim().parse().unwrap_or(0),
    }
}

/// A field of `/proc/meminfo` in bytes, 0 if it is not there.
pub(in crate::commands) fn meminfo(text: &str, field: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib =
        value.and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

pub(super) fn merges_pages() -> bool {
    fs::read_to_string("/sys/kernel/mm/ksm/run").is_ok_and(|text| text.trim() == "1")
}

/// How many files this process may have open.
pub(super) fn open_files() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

pub(super) fn data_dir(path: PathBuf) -> DataDir {
    let exists = path.is_dir();
    let nearest = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let free_bytes =
        rustix::fs::statvfs(nearest).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let file_system = file_system_of(nearest);
    let reflinks = if exists { reflinks(&path) } else { None };
    DataDir { path, exists, free_bytes, file_system, reflinks }
}

/// The type of the file system that `path` is on.
pub(in crate::commands) fn file_system_of(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    file_system(&mounts, &real).unwrap_or("unknown").to_owned()
}

/// The type of the file system that `path` is on, by `/proc/self/mounts`.
fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        path.starts_with(at).then_some((at.len(), kind))
    });
    // Of two mounts at the same place the later one covers the earlier.
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// Tries to make one file share the blocks of another.
fn reflinks(directory: &Path) -> Option<bool> {
    let names = [(); 2].map(|()| base::files::temporary_sibling(&directory.join("reflink")));
    let tried = (|| {
        let mut from = fs::File::create_new(&names[0])?;
        from.write_all(&[1; 4096])?;
        let to = fs::File::create_new(&names[1])?;
        Ok::<_, std::io::Error>(rustix::fs::ioctl_ficlone(&to, &from).is_ok())
    })();
    for name in &names {
        let _ = fs::remove_file(name);
    }
    tried.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kilobytes_and_a_missing_field_is_nothing() {
        let text = "MemTotal:       24683712 kB\nMemAvailable:   24000000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), 24_683_712 << 10);
        assert_eq!(meminfo(text, "Mem"), 0);
        assert_eq!(meminfo("", "MemTotal"), 0);
    }

    #[test]
    fn the_deepest_and_latest_mount_is_the_one_that_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\nx /var xfs rw 0 0\ny /var btrfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/var/lib/bhatti")), Some("btrfs"));
        assert_eq!(file_system(mounts, Path::new("/variant")), Some("ext4"));
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn trying_reflinks_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(reflinks(dir.path()).is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(reflinks(Path::new("/no/such/directory")), None);
        let planned = data_dir(dir.path().join("not/yet"));
        assert!(!planned.exists && planned.free_bytes > 0 && planned.reflinks.is_none());
    }
}
