//! The archive around an image's layers: where its members are, so that they can be read in any
//! order. As with layers, no name in it becomes a path of the host.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

use fs_err as fs;

use super::{
    LayerError, Limits, directory,
    header::{BLOCK, Header},
    input::Input,
    path::EntryPath,
    pax::Extensions,
    zstd,
};
use crate::staging::Staging;

/// No archive of an image has more members; a root file system may.
const MEMBERS_MAX: usize = 16 << 10;
/// No extended header and no long name is larger than this, in bytes.
const EXTENSION_MAX: u64 = 1 << 20;
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
    let end = archive.seek(SeekFrom::End(0)).map_err(LayerError::Source)?;
    archive.seek(SeekFrom::Start(0)).map_err(LayerError::Source)?;
    let mut scan = Scan { archive: BufReader::with_capacity(BLOCK * 8, archive), at: 0, end };
    let mut members = Members::new();
    while let Some((name, member)) = scan.next()? {
        let name = EntryPath::clean(&name)?.as_bytes().to_owned();
        let top = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        if OF_ROOTS.contains(&top) {
            return Ok(None);
        }
        let Some(member) = member else { continue };
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

struct Scan<'a> {
    archive: BufReader<&'a mut dyn Source>,
    at: u64,
    end: u64,
}

type Found = (Vec<u8>, Option<Member>);

impl Scan<'_> {
    /// The next name, and what it stands for if that can matter.
    fn next(&mut self) -> Result<Option<Found>, LayerError> {
        let mut told = Extensions::default();
        loop {
            let at = self.at;
            let malformed = |reason| LayerError::Header { at, reason };
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(malformed)?;
            let size = u64::try_from(header.size).map_err(|_| malformed("its size is negative"))?;
            match header.kind {
                b'g' | b'V' => self.skip(size)?,
                b'x' => told.add(&self.extension(size, &malformed)?).map_err(malformed)?,
                b'L' => told.path = Some(self.long_name(size, &malformed)?),
                b'K' => told.link = Some(self.long_name(size, &malformed)?),
                _ => return self.member(header, told).map(Some),
            }
        }
    }

    fn member(&mut self, header: Header, told: Extensions) -> Result<Found, LayerError> {
        let at = self.at;
        let name = told.path.unwrap_or(header.name);
        let link = told.link.unwrap_or(header.link);
        let size = u64::try_from(told.size.unwrap_or(header.size));
        let reason = "its size is negative";
        let size = size.map_err(|_| LayerError::Header { at, reason })?;
        let member = match header.kind {
            b'0' | 0 | b'7' if name.ends_with(b"/") => None,
            b'0' | 0 | b'7' if !told.sparse => Some(Member::File { at, size }),
            b'1' => Some(Member::Link(link)),
            b'2' => Some(Member::Link(beside(&name, &link))),
            _ => None,
        };
        // All others have no content, whatever they say, unless they are of an unknown kind.
        if !matches!(header.kind, b'1'..=b'6') {
            self.skip(size)?;
        }
        Ok((name, member))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        if self.at == self.end {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        match self.archive.read_exact(&mut block) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LayerError::Truncated("a header is not complete"));
            }
            Err(error) => return Err(LayerError::Source(error)),
        }
        self.at += BLOCK as u64;
        Ok(Some(block))
    }

    /// Passes over a content.
    fn skip(&mut self, size: u64) -> Result<(), LayerError> {
        let next = size.checked_next_multiple_of(BLOCK as u64);
        let next = next.and_then(|padded| self.at.checked_add(padded));
        let complete = self.at.checked_add(size).is_some_and(|content| content <= self.end);
        let Some(next) = next.filter(|_| complete) else {
            return Err(LayerError::Truncated("a file's content is not complete"));
        };
        // Somebody may have cut off the last padding.
        let next = next.min(self.end);
        let by = i64::try_from(next - self.at).unwrap_or(i64::MAX);
        self.archive.seek_relative(by).map_err(LayerError::Source)?;
        self.at = next;
        Ok(())
    }

    fn extension(
        &mut self,
        size: u64,
        malformed: &dyn Fn(&'static str) -> LayerError,
    ) -> Result<Vec<u8>, LayerError> {
        if size > EXTENSION_MAX {
            return Err(malformed("its extension is larger than 1 MiB"));
        }
        let mut bytes = Vec::new();
        (&mut self.archive).take(size).read_to_end(&mut bytes).map_err(LayerError::Source)?;
        if bytes.len() as u64 != size {
            return Err(LayerError::Truncated("an extended header is not complete"));
        }
        let padding = (size.next_multiple_of(BLOCK as u64) - size).min(self.end - self.at - size);
        let by = i64::try_from(padding).unwrap_or_default();
        self.archive.seek_relative(by).map_err(LayerError::Source)?;
        self.at += size + padding;
        Ok(bytes)
    }

    fn long_name(
        &mut self,
        size: u64,
        malformed: &dyn Fn(&'static str) -> LayerError,
    ) -> Result<Vec<u8>, LayerError> {
        let mut name = self.extension(size, malformed)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
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
