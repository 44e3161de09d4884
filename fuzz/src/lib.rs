//! What the targets have in common: a store of images with other things around it, which nothing that is
//! stored may touch.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use disk::layer::Limits;
use fs_err as fs;
use tempfile::TempDir;

/// So small that no input is large for long.
pub const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 1000, name_bytes: 1 << 18 };

/// A store, and a directory around it.
pub struct House(TempDir);

impl House {
    /// An empty one, in memory.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let canary = directory.path().join("canary");
        fs::write(canary, "alive").expect("a file in memory");
        Self(directory)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Nothing is there but the store, and nothing half-made in it.
    ///
    /// # Panics
    /// If that is not so.
    pub fn check(&self) {
        let mut found = BTreeMap::new();
        list(self.0.path(), self.0.path(), &mut found);
        for (path, is_file) in &found {
            let parts: Vec<&str> = path.split('/').collect();
            let known = match parts[..] {
                ["canary"] => *is_file,
                ["data"] | ["data", "images"] | ["data", "images", "layers" | "content"] => {
                    !is_file
                }
                ["data", "images", "layers" | "content", digest] => !is_file && is_digest(digest),
                ["data", "images", "layers", _, "manifest.json" | "index" | "small" | "data"]
                | ["data", "images", "content", _, "manifest.json" | "root.erofs"] => *is_file,
                _ => false,
            };
            assert!(known, "{path} is there");
        }
        assert_eq!(fs::read(self.0.path().join("canary")).ok().as_deref(), Some(&b"alive"[..]));
    }
}

impl Default for House {
    fn default() -> Self {
        Self::new()
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn list(top: &Path, directory: &Path, found: &mut BTreeMap<String, bool>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a kind");
        let path = entry.path();
        let name = path.strip_prefix(top).expect("below").to_string_lossy().into_owned();
        assert!(kind.is_file() || kind.is_dir(), "{name} is a {kind:?}");
        found.insert(name, kind.is_file());
        if kind.is_dir() {
            list(top, &path, found);
        }
    }
}
