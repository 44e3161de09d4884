//! The files that a build is sent.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use dockerfile::Ignore;

use crate::archive::Packer;

/// What says which files are left out.
const IGNORE: &str = ".dockerignore";

/// A directory, and what is left out of it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    ignore: Ignore,
}

impl Tree {
    /// `file` is the Dockerfile, which may have a list of its own of what is left out.
    pub(super) fn of(root: &Path, file: &Path) -> Result<Self> {
        if !fs_err::metadata(root)?.is_dir() {
            bail!("{} is no directory", root.display());
        }
        let mut own = file.as_os_str().to_owned();
        own.push(IGNORE);
        for path in [PathBuf::from(own), root.join(IGNORE)] {
            match fs_err::read_to_string(&path) {
                Ok(text) => {
                    let context = || format!("read {}", path.display());
                    let ignore = Ignore::parse(&text).with_context(context)?;
                    return Ok(Self { root: root.to_owned(), ignore });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { root: root.to_owned(), ignore: Ignore::default() })
    }

    /// Packs what is not left out.
    pub(super) fn pack(&self, packer: &mut Packer) -> Result<()> {
        for path in self.paths()? {
            packer.add(&self.root.join(&path), &path)?;
        }
        Ok(())
    }

    /// What is not left out and the directories above it, relative to the root.
    fn paths(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        // Directories that are still to be read.
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for entry in fs_err::read_dir(self.root.join(&directory))? {
                let entry = entry?;
                let path = directory.join(entry.file_name());
                let out = self.ignore.excludes(&path.to_string_lossy());
                if entry.file_type()?.is_dir() && (!out || self.ignore.has_exceptions()) {
                    pending.push(path.clone());
                }
                if !out {
                    let above = path.ancestors().skip(1).filter(|above| *above != Path::new(""));
                    found.extend(above.map(Path::to_owned));
                    found.insert(path);
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, file).unwrap();
        }
        root
    }

    fn sent(root: &tempfile::TempDir, file: &str) -> Vec<String> {
        let tree = Tree::of(root.path(), &root.path().join(file)).unwrap();
        let paths = tree.paths().unwrap();
        paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_left_out_is_not_sent() {
        let root = tree(&["a/b/c", "a/d", "e"]);
        assert_eq!(sent(&root, "Dockerfile"), ["a", "a/b", "a/b/c", "a/d", "e"]);
        fs_err::write(root.path().join(IGNORE), "a\n.dockerignore\n").unwrap();
        assert_eq!(sent(&root, "Dockerfile"), ["e"]);
        fs_err::write(root.path().join(IGNORE), "*\n!a/b/c\n").unwrap();
        assert_eq!(sent(&root, "Dockerfile"), ["a", "a/b", "a/b/c"]);
        fs_err::write(root.path().join("X.dockerignore"), "*\n!e\n").unwrap();
        assert_eq!(sent(&root, "X"), ["e"], "a Dockerfile may have a list of its own");
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let root = tree(&["a"]);
        let error = Tree::of(&root.path().join("a"), Path::new("x")).unwrap_err();
        assert!(error.to_string().contains("no directory"), "{error}");
        fs_err::write(root.path().join(IGNORE), "x\n[\n").unwrap();
        let error = format!("{:#}", Tree::of(root.path(), Path::new("x")).unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }
}
