//! The initramfs: the agent as `/init` and the kernel modules up to the root file system.
//!
//! It is an uncompressed cpio archive in the "newc" format of
//! `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux, and the same bytes for
//! the same input: it is part of what identifies a template.

use std::path::{Path, PathBuf};

use base::{files, hash};
use fs_err as fs;

use crate::{DiskError, kernel::KernelBundle};

/// Part of the cache key; to be raised whenever [`build`] makes another archive of the same input.
const FORMAT: &[u8] = b"bhatti-initramfs-1";

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;
const NULL: u32 = 0o020_666;

/// The archive for a kernel bundle and the agent's executable.
///
/// ```text
/// /init                     the agent
/// /modules/NNN-name.ko      to be loaded in this order
/// /dev/{console,null}       so that the agent has a stdout before it mounts anything
/// /{dev,proc,sys,run,lower,rw,newroot}
/// ```
///
/// # Errors
/// If a boot module cannot be read or is not what the bundle's manifest says.
pub fn build(bundle: &KernelBundle, lohar: &[u8]) -> Result<Vec<u8>, DiskError> {
    let mut archive = Archive::default();
    for directory in ["dev", "lower", "modules", "newroot", "proc", "run", "rw", "sys"] {
        archive.add(directory, DIRECTORY, (0, 0), b"")?;
    }
    archive.add("dev/console", CONSOLE, (5, 1), b"")?;
    archive.add("dev/null", NULL, (1, 3), b"")?;
    archive.add("init", EXECUTABLE, (0, 0), lohar)?;
    for module in bundle.boot_modules() {
        let content = fs::read(&module.path)?;
        if hash::bytes(&content) != module.sha256 {
            let reason = "it is not what the kernel's manifest says".to_owned();
            return Err(DiskError::Damaged { path: module.path, reason });
        }
        let name = module.path.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{name}"), FILE, (0, 0), &content)?;
    }
    archive.finish()
}

/// The path of the archive, which is built and stored below `data` if it is not there yet.
///
/// # Errors
/// As [`build`], or if it cannot be written.
pub fn cached(data: &Path, bundle: &KernelBundle, lohar: &[u8]) -> Result<PathBuf, DiskError> {
    let agent = hash::bytes(lohar);
    let key = hash::key([FORMAT, bundle.id().as_bytes(), agent.as_bytes()]);
    let path = data.join("initramfs").join(format!("{key}.cpio"));
    if !path.exists() {
        let archive = build(bundle, lohar)?;
        fs::create_dir_all(data.join("initramfs"))?;
        files::write_atomic(&path, &archive, 0o644)?;
    }
    Ok(path)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Appends an entry; `device` is the major and minor number of a device node.
    fn add(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> Result<(), DiskError> {
        let size = u32::try_from(content.len()).map_err(|_| DiskError::Damaged {
            path: PathBuf::from(name),
            reason: "it is too large for an initramfs".to_owned(),
        })?;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // Inode, mode, uid, gid, links, mtime, size, device of the file, device number, name size
        // with the NUL, checksum. Numbers count up, so that nothing looks like a hard link.
        self.entries += 1;
        let (major, minor) = device;
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align(4);
        self.bytes.extend_from_slice(content);
        self.align(4);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>, DiskError> {
        self.add("TRAILER!!!", 0, (0, 0), b"")?;
        self.align(512);
        Ok(self.bytes)
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use base::process::{Command, ProcessError};

    use super::*;
    use crate::kernel::tests::fake_bundle;

    /// Name, mode, device number and content.
    type Entry = (String, u32, (usize, usize), Vec<u8>);

    fn parse(archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let name = &archive[at + 110..at + 110 + name_size - 1];
            let name = String::from_utf8(name.to_vec()).unwrap();
            let start = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert!(archive[start..].iter().all(|byte| *byte == 0));
                return entries;
            }
            let mode = u32::try_from(field(1)).unwrap();
            let content = archive[start..start + size].to_vec();
            entries.push((name, mode, (field(9), field(10)), content));
            at = (start + size).next_multiple_of(4);
        }
    }

    #[test]
    fn the_archive_has_the_agent_the_modules_and_the_device_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = fake_bundle(dir.path());
        let archive = build(&bundle, b"agent").unwrap();
        assert_eq!(archive, build(&bundle, b"agent").unwrap());
        assert_eq!(archive.len() % 512, 0);
        let entries = parse(&archive);
        let find = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(find("init"), &("init".into(), 0o100_755, (0, 0), b"agent".to_vec()));
        assert_eq!(find("dev/console").2, (5, 1));
        assert_eq!(find("dev/null").1, 0o020_666);
        assert_eq!(find("newroot").1, 0o040_755);
        let modules: Vec<_> =
            entries.iter().filter(|entry| entry.0.starts_with("modules/")).collect();
        assert_eq!(modules.len(), bundle.boot_modules().len());
        assert_eq!(modules[0].0, "modules/000-virtio_mmio.ko");
        assert_eq!(modules[0].3, b"\x7fELFvirtio_mmio");
    }

    #[test]
    fn cpio_reads_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let path = cached(dir.path(), &fake_bundle(dir.path()), b"agent").unwrap();
        assert_eq!(cached(dir.path(), &fake_bundle(dir.path()), b"agent").unwrap(), path);
        let file = std::fs::File::open(&path).unwrap();
        match Command::new("cpio").arg("-itv").stdin(file).output() {
            Ok(list) => {
                let list = String::from_utf8(list).unwrap();
                assert!(
                    list.lines()
                        .any(|line| line.starts_with("-rwxr-xr-x") && line.ends_with(" init")),
                    "{list}"
                );
                assert!(list.contains("  5,   1 "), "{list}");
            }
            Err(ProcessError::Missing { .. }) => println!("SKIPPED: cpio is not installed"),
            Err(error) => panic!("{error}"),
        }
    }
}
