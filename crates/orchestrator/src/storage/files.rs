//! How much room files take, each counted once however many names it has.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::Result;

/// A file, whatever it is called: its device and its inode.
type Identity = (u64, u64);

/// Files and how they are named below the places that were looked at.
#[derive(Debug, Default)]
pub(super) struct Files(HashMap<Identity, Found>);

#[derive(Debug, Clone, Copy)]
struct Found {
    bytes: u64,
    /// Names that it has altogether.
    links: u64,
    /// Names that were seen here.
    seen: u64,
}

impl Files {
    /// Adds everything at and below `path`; nothing if there is nothing.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        let meta = match fs_err::symlink_metadata(path) {
            // What is half-made or half-removed may go at any moment.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if !meta.is_dir() {
            let found = Found {
                // st_blocks counts 512 bytes whatever the file system's block size is, see stat(3type).
                bytes: meta.blocks() * 512,
                links: meta.nlink(),
                seen: 0,
            };
            self.0.entry((meta.dev(), meta.ino())).or_insert(found).seen += 1;
            return Ok(());
        }
        let entries = match fs_err::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            self.add(&entry?.path())?;
        }
        Ok(())
    }

    /// What all of them take, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().map(|found| found.bytes).sum()
    }

    /// What would be free if all of these names went: files that have no other name.
    pub(super) fn freed(&self) -> u64 {
        let gone = self.0.values().filter(|found| found.seen >= found.links);
        gone.map(|found| found.bytes).sum()
    }

    /// What these and others take together.
    pub(super) fn bytes_of_all<'a>(all: impl IntoIterator<Item = &'a Self>) -> u64 {
        let mut known = HashSet::new();
        let each = all.into_iter().flat_map(|files| &files.0);
        each.filter(|(identity, _)| known.insert(**identity)).map(|(_, found)| found.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_is_counted_once_and_freed_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs_err::create_dir(&a).unwrap();
        fs_err::create_dir(&b).unwrap();
        fs_err::write(a.join("shared"), vec![1; 8192]).unwrap();
        fs_err::hard_link(a.join("shared"), b.join("shared")).unwrap();
        fs_err::write(b.join("own"), vec![1; 4096]).unwrap();
        let files = |path: &Path| {
            let mut files = Files::default();
            files.add(path).unwrap();
            files
        };
        let (of_a, of_b) = (files(&a), files(&b));
        let one = of_b.freed();
        assert!(one > 0);
        assert_eq!((of_a.freed(), of_b.bytes() - of_a.bytes()), (0, one));
        assert_eq!(Files::bytes_of_all([&of_a, &of_b]), of_b.bytes());
        assert_eq!(files(dir.path()).freed(), of_b.bytes());
        assert_eq!(files(&dir.path().join("missing")).bytes(), 0);
    }
}
