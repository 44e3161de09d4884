//! Making a bundle.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use base::{clock, hash};
use fs_err as fs;

use super::{
    BOOT, FORMAT, ID_DIGITS, KernelBundle, KernelError, KernelSource, MAGIC, MODULES, Manifest,
    VMLINUX, decompress, directory, modules, open, set_current,
    source::{self, Found},
    vmlinux,
};
use crate::{
    DiskError, FileEntry, Listener,
    erofs::{self, Meta},
    manifest, report,
    staging::Staging,
};

/// No module is larger than this, in bytes.
const MODULE_MAX: usize = 256 << 20;

/// Prepares a bundle from `source` and makes it the current one. If the same content is there
/// already, nothing but the choice of the current one changes.
///
/// # Errors
/// If the source does not have a bootable kernel with the needed drivers, or a tool, the network
/// or the disk fails. Nothing half-made stays behind.
pub fn prepare(
    data: &Path,
    source: &KernelSource,
    progress: Listener<'_>,
) -> Result<KernelBundle, KernelError> {
    let directory = directory(data);
    let work = Staging::inside(&directory)?;
    let found = source::fetch(source, work.path(), progress)?;
    let bundle = Staging::inside(&directory)?;

    report(progress, format!("extracting the kernel {}", found.release));
    write_vmlinux(&found, &bundle.path().join(VMLINUX))?;
    let boot = write_boot_modules(&found, bundle.path())?;
    report(progress, format!("making the module image of {}", found.release));
    erofs::make(&found.tree, &bundle.path().join(MODULES), Meta::Fixed(0))?;

    report(progress, "hashing and storing the kernel");
    let paths = [VMLINUX, MODULES].into_iter().chain(boot.iter().map(String::as_str));
    let files =
        paths.map(|path| FileEntry::of(bundle.path(), path)).collect::<Result<Vec<_>, _>>()?;
    let id = identity(&found.release, &files);
    let manifest = Manifest {
        id: id.clone(),
        release: found.release,
        source: found.description,
        created_at: clock::unix_seconds(),
        files,
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest)?;
    fs::write(bundle.path().join(manifest::NAME), text)?;
    let target = directory.join(&id);
    if !target.exists() {
        bundle.commit(&target)?;
    }
    let bundle = open(data, &id)?;
    set_current(data, &bundle)?;
    Ok(bundle)
}

fn identity(release: &str, files: &[FileEntry]) -> String {
    let format = FORMAT.to_le_bytes();
    let files = files.iter().flat_map(|file| [file.path.as_bytes(), file.sha256.as_bytes()]);
    let parts = [format.as_slice(), release.as_bytes()].into_iter().chain(files);
    hash::key(parts)[..ID_DIGITS].to_owned()
}

fn write_vmlinux(found: &Found, to: &Path) -> Result<(), KernelError> {
    let image = read_limited(&found.kernel, vmlinux::SIZE_MAX)?;
    let kernel = vmlinux::extract(&image)
        .map_err(|source| KernelError::Vmlinux { path: found.kernel.clone(), source })?;
    // Modules of another build do not load, which would show only at boot.
    let banner = format!("Linux version {} ", found.release);
    if !contains(&kernel, banner.as_bytes()) {
        let (kernel, release) = (found.kernel.display(), &found.release);
        let reason = format!("{kernel} is not the kernel that the modules of {release} belong to");
        return Err(KernelError::NotFound { reason });
    }
    Ok(fs::write(to, kernel)?)
}

/// Stores the boot modules decompressed below `bundle` and returns their paths in it, in order.
fn write_boot_modules(found: &Found, bundle: &Path) -> Result<Vec<String>, KernelError> {
    let from = found.tree.join(&found.release);
    let failed = |source| KernelError::Modules { path: PathBuf::from(&found.release), source };
    let index = modules::Index::read(&from).map_err(failed)?;
    let files = index.closure(&modules::BOOT).map_err(failed)?;
    fs::create_dir(bundle.join(BOOT))?;
    let mut stored = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let path = from.join(file);
        let mut content = read_limited(&path, MODULE_MAX)?;
        if !content.starts_with(b"\x7fELF") {
            content = decompress::decompress(&content, MODULE_MAX)
                .map_err(|source| KernelError::Module { path, source })?;
        }
        let target = format!("{BOOT}/{number:03}-{}.ko", modules::module_name(file));
        fs::write(bundle.join(&target), content)?;
        stored.push(target);
    }
    Ok(stored)
}

fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>, KernelError> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut content)?;
    if content.len() > limit {
        let reason = format!("it has more than {limit} bytes");
        return Err(DiskError::Damaged { path: path.to_owned(), reason }.into());
    }
    Ok(content)
}

fn contains(data: &[u8], wanted: &[u8]) -> bool {
    let Some(first) = wanted.first() else { return true };
    let mut rest = data;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(wanted) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
