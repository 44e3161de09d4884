//! Empty writable disks: sparse raw files with an ext4 in them.

use std::path::Path;

use base::{fault, files, process::Command};
use fs_err as fs;

use crate::DiskError;

/// The file system label.
pub const LABEL: &str = "bhatti-rw";

/// The label of a volume's file system.
pub const VOLUME_LABEL: &str = "bhatti-volume";

/// The smallest disk, in MiB: below it the journal would take most of the room.
pub const SIZE_MIN_MIB: u64 = 16;

/// The journal, in MiB: small, because a short journal is rewritten in place and so dirties little
/// of a copy-on-write disk.
const JOURNAL_MIB: u64 = 4;

/// The journal of a volume, which is written for longer, MiB at most; a 64th of it if it is small.
const VOLUME_JOURNAL_MIB: u64 = 32;

const BLOCKS_PER_MIB: u64 = 256;

/// A disk can be grown online to this many blocks (128 GiB) or to twice its size, whichever is
/// more. That takes reserved group descriptors, 4 KiB for each 8 GiB; without them resize2fs
/// refuses to grow a mounted file system, and so it does with `meta_bg` (1.47).
const GROWTH_MIN_BLOCKS: u64 = 128 * 1024 * BLOCKS_PER_MIB;

/// No room is reserved for more than 16 TiB, where 32-bit block numbers end.
const GROWTH_MAX_BLOCKS: u64 = (1 << 32) - 1;

/// Makes the new file `path` a disk of `size_mib` MiB with an empty ext4. It has hardly any data
/// (under 300 KiB up to 8 GiB) and stays so: the inode tables are marked as zeroed, hence no guest
/// kernel writes them in the background. It is not flushed. On failure nothing is left.
///
/// # Errors
/// If the file exists, cannot be made, or `mke2fs` is missing or fails.
pub fn create_ext4(path: &Path, size_mib: u64) -> Result<(), DiskError> {
    create(path, size_mib, LABEL, JOURNAL_MIB)
}

/// As [`create_ext4`], for a disk that outlives its sandbox.
///
/// # Errors
/// As for [`create_ext4`].
pub fn create_volume(path: &Path, size_mib: u64) -> Result<(), DiskError> {
    let journal_mib = (size_mib / 64).clamp(JOURNAL_MIB, VOLUME_JOURNAL_MIB);
    create(path, size_mib, VOLUME_LABEL, journal_mib)
}

fn create(path: &Path, size_mib: u64, label: &str, journal_mib: u64) -> Result<(), DiskError> {
    let size_mib = size_mib.max(SIZE_MIN_MIB);
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let made = fault::point("scratch.create")
        .and_then(|()| file.set_len(size_mib << 20))
        .map_err(DiskError::from)
        .and_then(|()| make_file_system(path, size_mib * BLOCKS_PER_MIB, label, journal_mib));
    if made.is_err() {
        let _ = files::remove_any(path);
    }
    made
}

fn make_file_system(
    path: &Path,
    blocks: u64,
    label: &str,
    journal_mib: u64,
) -> Result<(), DiskError> {
    // Discarding a regular file punches it, after which mke2fs knows that it reads as zeros and
    // skips both writing the inode tables and leaving that to the kernel. An explicit
    // lazy_itable_init would only skip the former.
    let mut extended = "discard,lazy_journal_init=1,packed_meta_blocks=1".to_owned();
    let growth = (blocks * 2).clamp(GROWTH_MIN_BLOCKS, GROWTH_MAX_BLOCKS);
    if growth > blocks {
        extended.push_str(&format!(",resize={growth}"));
    }
    Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label])
        .args(["-J", &format!("size={journal_mib}"), "-E", &extended])
        .arg(path)
        .output()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse;

    fn tool(program: &str, args: &[&str], path: &Path) -> String {
        let out = Command::new(program).args(args).arg(path).output().unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn an_empty_disk_has_little_data_and_every_inode_table_counts_as_zeroed() {
        let dir = tempfile::tempdir().unwrap();
        for (size_mib, groups) in [(1024, 8), (8192, 64)] {
            let path = dir.path().join(size_mib.to_string());
            create_ext4(&path, size_mib).unwrap();
            let allocated = sparse::allocated_bytes(&path).unwrap();
            println!("{size_mib} MiB: {allocated} bytes allocated");
            assert!(allocated < 300 << 10, "{allocated}");
            let dump = tool("dumpe2fs", &[], &path);
            assert_eq!(dump.matches("ITABLE_ZEROED").count(), groups);
            tool("e2fsck", &["-f", "-n"], &path);
        }
    }

    #[test]
    fn room_to_grow_is_reserved_up_to_what_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        let tib = 1 << 20;
        for (size_mib, reserved) in [(1024, "15"), (tib, "128"), (9 * tib, "896")] {
            let path = dir.path().join("d");
            create_ext4(&path, size_mib).unwrap();
            let dump = tool("dumpe2fs", &["-h"], &path);
            let line = dump.lines().find(|line| line.starts_with("Reserved GDT blocks"));
            assert_eq!(line.unwrap().split_whitespace().last(), Some(reserved), "{size_mib}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_disk_grows_and_a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        create_ext4(&path, 1).unwrap();
        assert!(create_ext4(&path, 64).is_err());
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE_MIN_MIB << 20);
        file.set_len(128 << 30).unwrap();
        tool("resize2fs", &[], &path);
        tool("e2fsck", &["-f", "-n"], &path);
    }
}
