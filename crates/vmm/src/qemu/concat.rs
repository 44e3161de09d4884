//! Several files as one read-only disk.
//!
//! QEMU has no driver of that name, but a VMware disk may consist of files that follow each other,
//! and its description is a text that may lie anywhere, in memory for instance.

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::launch::read_only;

/// Bytes of a sector, in which a description counts.
const SECTOR: u64 = 512;

/// A memory file with the description of a disk that consists of files, given by descriptor set and
/// size in bytes.
pub(super) fn describe(files: impl IntoIterator<Item = (RawFd, u64)>) -> io::Result<OwnedFd> {
    let text = text(files)?;
    let file = memfd_create("bhatti-base", MemfdFlags::CLOEXEC)?;
    rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, text.as_bytes(), 0))?;
    // QEMU takes a descriptor for reading only if it is for nothing else.
    read_only(&file)
}

fn text(files: impl IntoIterator<Item = (RawFd, u64)>) -> io::Result<String> {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"twoGbMaxExtentFlat\"\n",
    );
    for (set, bytes) in files {
        if bytes == 0 || bytes % SECTOR != 0 {
            let message = format!("a part of the image has {bytes} bytes, not whole sectors");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let sectors = bytes / SECTOR;
        text.push_str(&format!("RW {sectors} FLAT \"/dev/fdset/{set}\" 0\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use super::*;

    #[test]
    fn each_file_is_an_extent_in_order() {
        let mut text = String::new();
        let mut file = File::from(describe([(11, 4096), (12, 1 << 20)]).unwrap());
        file.read_to_string(&mut text).unwrap();
        let extents: Vec<&str> = text.lines().filter(|line| line.starts_with("RW ")).collect();
        assert_eq!(extents, ["RW 8 FLAT \"/dev/fdset/11\" 0", "RW 2048 FLAT \"/dev/fdset/12\" 0"]);
        assert!(text.starts_with("# Disk DescriptorFile\n"));
    }

    #[test]
    fn a_file_that_ends_within_a_sector_is_refused() {
        for bytes in [0, 1, 511, 4097] {
            let error = describe([(11, 4096), (12, bytes)]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
