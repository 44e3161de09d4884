//! What no image needs any more.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::fs::FlockOperation;

use super::{
    FORMAT, ImageError, NAME_MAGIC, Pointer, content_directory, is_digest, known, names_directory,
};
use crate::{manifest, staging};

/// Something stored that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Its digest.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Whether it is a layer, and not an image.
    pub layer: bool,
}

/// As long as it lives nobody stores or names an image, in whatever process.
#[derive(Debug)]
pub struct Lock {
    _held: fs::File,
}

/// Waits until nobody stores an image, and keeps it so.
///
/// # Errors
/// If the directory of names cannot be made or locked.
pub fn lock(data: &Path) -> io::Result<Lock> {
    let names = names_directory(data);
    fs::create_dir_all(&names)?;
    Ok(Lock { _held: staging::lock(&names, FlockOperation::LockExclusive)? })
}

/// The images that no name means and whose digest is not in `used`.
///
/// # Errors
/// If a name cannot be read: any image could be meant by it.
pub fn unused(data: &Path, used: &HashSet<String>) -> Result<Vec<Unused>, ImageError> {
    let names = names_directory(data);
    let mut keep = used.clone();
    for name in known(data)? {
        let pointer: Pointer = manifest::read(&names.join(name), NAME_MAGIC, FORMAT)?;
        keep.insert(pointer.sha256);
    }
    let mut unused = Vec::new();
    let entries = match fs::read_dir(content_directory(data)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(unused),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_digest(&name) && !keep.contains(&name) {
            unused.push(Unused { name, path: entry.path(), layer: false });
        }
    }
    unused.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(unused)
}
