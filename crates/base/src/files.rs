//! Files and directories that appear whole or not at all.
//!
//! The order is always the same: write under a temporary name in the same directory, flush the
//! data, rename, flush the directory. A crash leaves either the old content or the new one, and
//! at most a temporary name that [`sweep_temporary`] removes.

use std::{
    fs::Permissions,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::{fault, random};

/// Marks names that are not committed yet.
const TEMPORARY: &str = ".tmp-";

/// A sibling name for `path` that no reader looks at.
pub fn temporary_sibling(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{TEMPORARY}{}-{name}", random::hex::<4>()))
}

/// Replaces the content of `path` in one step, flushed to the disk, with permission bits `mode`.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_sibling(path);
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // Once more, because the process's umask may have taken something away.
        file.set_permissions(Permissions::from_mode(mode))?;
        fault::point("file.write")?;
        file.write_all(content)?;
        file.sync_all()?;
        fault::point("file.rename")?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    fault::point("file.flush")?;
    sync_parent(path)
}

/// Makes a fully written and flushed directory visible as `path`, which must not exist yet.
pub fn commit_directory(temporary: &Path, path: &Path) -> io::Result<()> {
    sync_directory(temporary)?;
    fault::point("directory.rename")?;
    fs::rename(temporary, path)?;
    fault::point("directory.flush")?;
    sync_parent(path)
}

/// Flushes the entries of a directory.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Flushes the directory that holds `path`.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Bytes that may still be written to the file system that holds `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes what a crash left under temporary names in `directory`, and says how many there were.
/// Must not run while anything writes there.
pub fn sweep_temporary(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            remove_any(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a file or a whole directory; that it is not there is no error.
pub fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"old", 0o600).unwrap();
        // A directory in the way of the rename makes the write fail after the data is written.
        let blocked = dir.path().join("d");
        fs::create_dir(&blocked).unwrap();
        assert!(write_atomic(&blocked, b"new", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn sweeping_takes_temporary_names_only() {
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        fs::write(&keep, b"k").unwrap();
        fs::create_dir(temporary_sibling(&keep)).unwrap();
        fs::write(temporary_sibling(&keep), b"half").unwrap();
        assert_eq!(sweep_temporary(dir.path()).unwrap(), 2);
        assert!(keep.exists());
    }
}
