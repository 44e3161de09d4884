//! Backups below a directory of the host that an operator named.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use base::fault;
use fs_err as fs;

use crate::destination::{Key, Object};

/// Such a directory. Nothing above it is made, and nothing in it has a name that a user chose as a
/// whole: see [`Key`].
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The directory need not be there yet; a mount that is missing shows when it is used.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Keeps a file under `key`: it appears whole, or not at all. The file may be gone afterwards.
    pub(crate) fn put(&self, file: &Path, key: &Key) -> io::Result<()> {
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.root);
        // The root itself is not made: where nothing is mounted, nothing is to be written.
        fs::metadata(&self.root)?;
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        fault::point("backup.keep")?;
        if fs::rename(file, &path).is_err() {
            copy_whole(file, &path)?;
        }
        base::files::sync_parent(&path)?;
        // The directories above are new at most once.
        base::files::sync_parent(parent)
    }

    /// The file that is kept under `key`.
    pub(crate) fn open(&self, key: &Key) -> io::Result<std::fs::File> {
        fs::File::open(self.path(key)).map(fs::File::into_file)
    }

    /// Removes what is kept under `key`. That there is nothing is no error.
    pub(crate) fn delete(&self, key: &Key) -> io::Result<()> {
        let path = self.path(key);
        base::files::remove_any(&path)?;
        // What is empty now goes too; what is not stays.
        let mut above = path.parent();
        while let Some(directory) = above.filter(|directory| *directory != self.root) {
            if fs::remove_dir(directory).is_err() {
                break;
            }
            above = directory.parent();
        }
        Ok(())
    }

    /// All that is kept below `prefix`, which ends with a slash.
    pub(crate) fn list(&self, prefix: &str) -> io::Result<Vec<Object>> {
        let (mut found, mut below) = (Vec::new(), vec![self.root.join(prefix)]);
        while let Some(directory) = below.pop() {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                let entry = entry?;
                let meta = fs::symlink_metadata(entry.path())?;
                if meta.is_dir() {
                    below.push(entry.path());
                    continue;
                }
                let path = entry.path();
                let key = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
                if let Some(key) = key.and_then(|key| Key::new(key).ok())
                    && meta.is_file()
                {
                    found.push(Object { key, bytes: meta.len() });
                }
            }
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    /// Removes what a crash left half-written beside these keys, and says how much.
    pub(crate) fn sweep(&self, keys: &[Key]) -> io::Result<usize> {
        let mut removed = 0;
        for key in keys {
            let path = self.path(key);
            match base::files::sweep_temporary(path.parent().unwrap_or(&self.root)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => removed += other?,
            }
        }
        Ok(removed)
    }
}

/// To another file system.
fn copy_whole(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = base::files::temporary_sibling(to);
    let copied = (|| {
        fs::copy(from, &temporary)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, to)
    })();
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}
