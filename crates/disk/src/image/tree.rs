//! A root file system in the making, in a private directory.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base::files;
use fs_err as fs;
use fs_err::os::unix::fs::{OpenOptionsExt as _, symlink};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, chmod, utimensat};

/// The tree below a directory. Every path given to it is relative to that.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a plain file in place of whatever is there.
    pub(super) fn put(&self, path: &str, content: &str, mode: u32) -> io::Result<()> {
        let full = self.place(path)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&full)?;
        file.write_all(content.as_bytes())?;
        Ok(chmod(&full, Mode::from_raw_mode(mode))?)
    }

    /// Puts a symbolic link in place of whatever is there.
    pub(super) fn link(&self, path: &str, target: &str) -> io::Result<()> {
        symlink(target, self.place(path)?)
    }

    /// Makes a directory, with its parents.
    pub(super) fn directory(&self, path: &str, mode: u32) -> io::Result<()> {
        let full = self.root.join(path);
        fs::create_dir_all(&full)?;
        self.inside(&full)?;
        Ok(chmod(&full, Mode::from_raw_mode(mode))?)
    }

    /// Removes a file or a directory, which need not exist.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        let full = self.root.join(path);
        match full.parent() {
            Some(parent) if parent.exists() => self.inside(parent)?,
            _ => return Ok(()),
        }
        files::remove_any(&full)
    }

    /// Removes what is in a directory, if it exists, for which `doomed` is true.
    pub(super) fn prune(&self, path: &str, doomed: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let full = self.root.join(path);
        if !full.is_dir() {
            return Ok(());
        }
        self.inside(&full)?;
        prune(&full, doomed)
    }

    /// Sets everything that is newer than `started`, that is what the build itself wrote, back to
    /// the time of the newest file that is older, which came out of a package. Returns that time.
    pub(super) fn settle_times(&self, started: i64) -> io::Result<i64> {
        let mut times = Vec::new();
        collect_times(&self.root, &mut times)?;
        let newest = times.iter().map(|(_, time)| *time).filter(|time| *time < started);
        let newest = newest.max().unwrap_or(0);
        let time = Timespec { tv_sec: newest, tv_nsec: 0 };
        let both = Timestamps { last_access: time, last_modification: time };
        for (path, _) in times.iter().filter(|(_, time)| *time >= started) {
            utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(newest)
    }

    /// The host's path of a file to be made: free, and really below the root.
    fn place(&self, path: &str) -> io::Result<PathBuf> {
        let full = self.root.join(path);
        let parent = full.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        self.inside(parent)?;
        files::remove_any(&full)?;
        Ok(full)
    }

    /// A link among the directories must not lead out of the tree.
    fn inside(&self, directory: &Path) -> io::Result<()> {
        let real = fs::canonicalize(directory)?;
        if real.starts_with(fs::canonicalize(&self.root)?) {
            return Ok(());
        }
        let text = format!("{} leads out of the image", directory.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

fn prune(directory: &Path, doomed: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if doomed(&path) {
            files::remove_any(&path)?;
        } else if entry.file_type()?.is_dir() {
            prune(&path, doomed)?;
        }
    }
    Ok(())
}

fn collect_times(path: &Path, times: &mut Vec<(PathBuf, i64)>) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            collect_times(&entry?.path(), times)?;
        }
    }
    times.push((path.to_owned(), meta.mtime()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_the_tree_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), "host").unwrap();
        let tree = Tree::new(dir.path().join("root"));
        tree.directory("etc", 0o755).unwrap();
        tree.link("bad", outside.to_str().unwrap()).unwrap();
        tree.link("etc/f", outside.join("f").to_str().unwrap()).unwrap();
        assert!(tree.put("bad/f", "image", 0o644).is_err());
        assert!(tree.remove("bad/f").is_err());
        assert!(tree.prune("bad", &|_| true).is_err());
        tree.put("etc/f", "image", 0o644).unwrap();
        tree.remove("bad").unwrap();
        assert_eq!(fs::read(outside.join("f")).unwrap(), b"host");
        assert_eq!(fs::read(tree.root().join("etc/f")).unwrap(), b"image");
    }

    #[test]
    fn what_the_build_wrote_gets_the_time_of_the_newest_package() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().to_owned());
        for (name, time) in [("old", 1000), ("newer", 2000), ("built", 9000)] {
            tree.put(name, "", 0o644).unwrap();
            let time = Timespec { tv_sec: time, tv_nsec: 0 };
            let both = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, dir.path().join(name), &both, AtFlags::empty()).unwrap();
        }
        assert_eq!(tree.settle_times(5000).unwrap(), 2000);
        let time = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mtime();
        assert_eq!([time("old"), time("newer"), time("built"), time("")], [1000, 2000, 2000, 2000]);
    }
}
