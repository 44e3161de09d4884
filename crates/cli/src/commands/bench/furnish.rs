//! What a daemon of ours has of the user's: files that nobody writes to, under names of its own.
//!
//! What is measured makes images and has the daemon collect them again, which must not find anything of
//! the user's.

use std::{io, path::Path};

use anyhow::{Context as _, Result};
use disk::{
    image::{self, Image, ImageError},
    kernel::{self, KernelError},
};
use fs_err as fs;

use crate::commands::preparing;

/// Gives `data` the current kernel of the data directory `of` and those of the images that `of` has. Nothing
/// is copied if both are on the same file system.
pub(super) fn furnish<'a>(
    data: &Path,
    of: &Path,
    images: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let kernel = kernel::current(of).map_err(|e| preparing::with_hint(e, KernelError::hint))?;
    let kernels = data.join("kernels");
    fs::create_dir_all(&kernels)?;
    share(kernel.path(), &kernels.join(kernel.id()))?;
    kernel::set_current(data, &kernel).context("choose the kernel")?;
    // Made again in a moment.
    fs::create_dir_all(data.join("initramfs"))?;
    for name in images {
        match image::open(of, name) {
            Ok(image) => give(data, of, name, &image)?,
            Err(ImageError::Unknown { .. }) => {}
            Err(error) => return Err(preparing::with_hint(error, ImageError::hint)),
        }
    }
    Ok(())
}

fn give(data: &Path, of: &Path, name: &str, image: &Image) -> Result<()> {
    let (from, to) = (of.join("images"), data.join("images"));
    for layer in image.layers() {
        share_below(&from, &to, &format!("layers/{layer}"))?;
    }
    share_below(&from, &to, &format!("content/{}", image.digest()))?;
    share_below(&from, &to, &format!("names/{name}"))
}

fn share_below(from: &Path, to: &Path, path: &str) -> Result<()> {
    let target = to.join(path);
    if target.exists() {
        return Ok(());
    }
    fs::create_dir_all(target.parent().context("a place for an image")?)?;
    share(&from.join(path), &target)
}

/// Gives a file, or a directory with all that is in it, a second name.
fn share(from: &Path, to: &Path) -> Result<()> {
    if !fs::symlink_metadata(from)?.is_dir() {
        return match fs::hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                Ok(fs::copy(from, to).map(drop)?)
            }
            linked => Ok(linked?),
        };
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        share(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_can_be_removed_and_the_original_stays() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/c"), "c").unwrap();
        share(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/c")).unwrap(), "c");
        base::files::remove_any(&to).unwrap();
        assert_eq!(fs::read_to_string(from.join("a/b/c")).unwrap(), "c");
    }
}
