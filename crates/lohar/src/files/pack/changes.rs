//! An image, or what a guest has written over it, as a layer of an image.
//!
//! The upper directory of an overlay says with device nodes and attributes what is gone; a layer says it
//! with names, as the image specification of OCI has it (`layer.md`, "Whiteouts").

use std::os::fd::OwnedFd;

use proto::message::{ErrorCode, WireError};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Stat, fgetxattr, flistxattr, major, minor};
use rustix::io::Errno;

use crate::agent::refuse;
use crate::jobs;

/// What the name of an entry begins with that says that another is gone.
const GONE: &[u8] = b".wh.";
/// The entry that says that nothing below the directory is left.
pub(super) const ALL_GONE: &[u8] = b".wh..wh..opq";
/// The overlay's own attributes begin with this.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &str = "trusted.overlay.opaque";
/// Overlays that were told to say with these that what a file or directory has is elsewhere below. Ours
/// are not.
const ELSEWHERE: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];
/// What the kernel allows for all names of a file's attributes, and for one value, see `xattr(7)`.
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// The name of an extended attribute, and its value.
type Attribute = (Vec<u8>, Vec<u8>);

/// Whether an entry belongs to the sandbox that was saved, and to nothing that is made of it.
pub(super) fn is_left_out(below: &[u8]) -> bool {
    below == jobs::DIRECTORY.as_bytes()
}

/// Refuses a file whose name would say that another is gone.
pub(super) fn check_name(below: &[u8]) -> Result<(), WireError> {
    let name = below.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if !name.starts_with(GONE) {
        return Ok(());
    }
    let message = format!(
        "/{} cannot be in an image: names that begin with .wh. say that something is gone",
        String::from_utf8_lossy(below)
    );
    Err(refuse(ErrorCode::Invalid, message))
}

/// Whether the entry only says that one of the image is gone.
pub(super) fn is_whiteout(meta: &Stat) -> bool {
    FileType::from_raw_mode(meta.st_mode) == FileType::CharacterDevice
        && major(meta.st_rdev) == 0
        && minor(meta.st_rdev) == 0
}

/// The name that says that `below` is gone.
pub(super) fn whiteout(below: &[u8]) -> Vec<u8> {
    let name = below.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&below[..name], GONE, &below[name..]].concat()
}

/// Whether nothing of the image is left in this directory.
pub(super) fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    fgetxattr(directory, OPAQUE, &mut value[..]).is_ok_and(|count| count == 1) && value == *b"y"
}

/// The attributes of an open file or directory that belong to it and not to the overlay.
pub(super) fn attributes(file: &OwnedFd) -> Result<Vec<Attribute>, Errno> {
    let mut names = Vec::with_capacity(ATTRIBUTE_MAX);
    match flistxattr(file, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if ELSEWHERE.contains(&name) {
            return Err(Errno::NOTSUP);
        }
        if name.starts_with(OVERLAY) {
            continue;
        }
        let mut value = Vec::with_capacity(ATTRIBUTE_MAX);
        match fgetxattr(file, name, spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_vec(), value)),
            // Gone since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// The records of an extended header that say these attributes, empty if there are none.
pub(super) fn records(attributes: &[Attribute]) -> Vec<u8> {
    let record = |(name, value): &Attribute| {
        let rest = [b" SCHILY.xattr.", name.as_slice(), b"=", value, b"\n"].concat();
        // The length counts its own digits.
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length = length.to_string().len() + rest.len();
        }
        [length.to_string().as_bytes(), &rest].concat()
    };
    attributes.iter().flat_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_said_by_the_name() {
        assert_eq!(whiteout(b"etc/motd"), b"etc/.wh.motd");
        assert_eq!(whiteout(b"motd"), b".wh.motd");
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused() {
        for name in [b".wh.x".as_slice(), b"etc/.wh.x", b"a/.wh.", b".wh..wh..opq"] {
            assert_eq!(check_name(name).unwrap_err().code, ErrorCode::Invalid);
        }
        for name in [b"wh.x".as_slice(), b"etc/x.wh.y", b".whx", b".wh.d/file"] {
            assert!(check_name(name).is_ok());
        }
    }

    #[test]
    fn jobs_are_the_sandbox_s_own() {
        assert!(is_left_out(b"var/log/bhatti/jobs"));
        assert!(!is_left_out(b"var/log/bhatti") && !is_left_out(b"jobs"));
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        let one = |length: usize| records(&[(b"user.a".to_vec(), vec![b'x'; length])]);
        assert_eq!(one(1), b"25 SCHILY.xattr.user.a=x\n");
        for length in 0..2000 {
            let record = one(length);
            let said = record.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(String::from_utf8_lossy(said), record.len().to_string());
        }
        assert_eq!(records(&[]), b"");
    }
}
