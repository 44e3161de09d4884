//! The archive around an image's layers: where its members are, so that they can be read in any
//! order. As with layers, no name in it becomes a path of the host.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

use fs_err as fs;

use super::{
    LayerError, Limits, directory,
    input::Input,
    path::EntryPath,
    scan::{Scan, Scanned},
    zstd,
};
use crate::staging::Staging;

/// No archive of an image has more members; a root file system may.
const MEMBERS_MAX: usize = 16 << 10;
/// What is at the top of root file systems and never of archives of images.
const OF_ROOTS: [&[u8]; 6] = [b"bin", b"etc", b"lib", b"sbin", b"usr", b"var"];
/// How an archive begins that is compressed in a way that is known, or was in former times.
const COMPRESSED: [&[u8]; 3] = [&[0x1f, 0x8b], b"\xfd7zXZ\0", b"BZh"];

/// What can be read from any place.
pub trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// What a name in the archive stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Member {
    /// A file: where its content begins, and its length, in bytes.
    File { at: u64, size: u64 },
    /// Another name, from the top of the archive.
    Link(Vec<u8>),
    /// Several files, of which nobody can say which is meant.
    Several,
}

/// Members by their clean names.
pub(crate) type Members = BTreeMap<Vec<u8>, Member>;

/// An archive as plain bytes, in a file that goes with this value.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) file: fs::File,
    _staging: Staging,
}

/// Unpacks a compressed archive below `data`; `None` if it is not compressed.
pub(crate) fn unpack(
    data: &Path,
    archive: &mut dyn Source,
    limits: &Limits,
) -> Result<Option<Unpacked>, LayerError> {
    let mut first = Vec::new();
    archive.seek(SeekFrom::Start(0)).map_err(LayerError::Source)?;
    (&mut *archive).take(8).read_to_end(&mut first).map_err(LayerError::Source)?;
    archive.seek(SeekFrom::Start(0)).map_err(LayerError::Source)?;
    if !COMPRESSED.iter().any(|magic| first.starts_with(magic)) && !zstd::is_start(&first) {
        return Ok(None);
    }
    let mut reader = archive;
    let mut input = Input::new(&mut reader, limits)?;
    let staging = Staging::inside(&directory(data))?;
    let path = staging.path().join("archive");
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let mut size = 0;
    loop {
        let bytes = input.take(u64::MAX)?;
        if bytes.is_empty() {
            break;
        }
        // What is made to be large when it is unpacked is mostly zeros, and those take no room.
        if bytes.iter().any(|byte| *byte != 0) {
            file.file().write_all_at(bytes, size)?;
        }
        size += bytes.len() as u64;
    }
    file.set_len(size)?;
    Ok(Some(Unpacked { file, _staging: staging }))
}

/// Lists an uncompressed archive; `None` if it is, or may as well be, a root file system.
pub(crate) fn list(archive: &mut dyn Source) -> Result<Option<Members>, LayerError> {
    let mut scan = Scan::new(archive, true)?;
    let mut members = Members::new();
    while let Some(entry) = scan.next_entry()? {
        let name = EntryPath::clean(&entry.name)?.as_bytes().to_owned();
        let top = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        if OF_ROOTS.contains(&top) {
            return Ok(None);
        }
        let Some(member) = member(&entry) else { continue };
        members.entry(name).and_modify(|known| *known = Member::Several).or_insert(member);
        if members.len() > MEMBERS_MAX {
            if is_of_image(&members) {
                let what = "members of an image's archive";
                return Err(LayerError::TooLarge { what, limit: MEMBERS_MAX as u64 });
            }
            return Ok(None);
        }
    }
    Ok(is_of_image(&members).then_some(members))
}

fn is_of_image(members: &Members) -> bool {
    let has = |name: &[u8]| members.contains_key(name);
    has(b"manifest.json") || has(b"oci-layout") && has(b"index.json")
}

/// What an entry stands for, if that can matter.
fn member(entry: &Scanned) -> Option<Member> {
    let Scanned { name, link, at, size, .. } = entry;
    match entry.kind {
        b'0' | 0 | b'7' if name.ends_with(b"/") => None,
        b'0' | 0 | b'7' if !entry.sparse => Some(Member::File { at: *at, size: *size }),
        b'1' => Some(Member::Link(link.clone())),
        b'2' => Some(Member::Link(beside(name, link))),
        _ => None,
    }
}

/// What a symbolic link means, from the top: names only, nothing is looked up. What leads above the
/// top leads nowhere.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b".." => {
                if parts.pop().is_none() {
                    return Vec::new();
                }
            }
            b"" | b"." => {}
            part => parts.push(part),
        }
    }
    if target.starts_with(b"/") { Vec::new() } else { parts.join(&b'/') }
}
