//! From an archive to the files of a stored layer.

use std::path::Path;

use base::fault;

use super::{
    DATA, INDEX, LayerError, Limits, SMALL,
    archive::{Archive, Member, MemberKind},
    index::{Content, Entry, Kind, Meta},
    path::{EntryPath, Meaning},
};
use crate::{BLOCK_SIZE, FileEntry, output::Output};

/// Files up to this size, in bytes, are kept together and become part of each image's tree. A
/// larger one has blocks of its own. A copy of it in each image is still smaller than a block.
const SMALL_MAX: u64 = 1024;

/// What was written.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) entries: u64,
    pub(super) files: Vec<FileEntry>,
}

/// Writes index and contents of all entries into `directory`.
pub(super) fn write(
    archive: &mut Archive<'_>,
    directory: &Path,
    limits: &Limits,
) -> Result<Stored, LayerError> {
    fault::point("layer.write")?;
    let mut writer = Writer {
        index: Output::create(directory, INDEX)?,
        small: Output::create(directory, SMALL)?,
        data: Output::create(directory, DATA)?,
        entries: 0,
        name_bytes: 0,
        encoded: Vec::new(),
    };
    while let Some(member) = archive.next()? {
        writer.member(member, archive, limits)?;
    }
    fault::point("layer.written")?;
    let files = vec![writer.index.finish()?, writer.small.finish()?, writer.data.finish()?];
    Ok(Stored { entries: writer.entries, files })
}

struct Writer {
    index: Output,
    small: Output,
    data: Output,
    entries: u64,
    name_bytes: u64,
    encoded: Vec<u8>,
}

impl Writer {
    fn member(
        &mut self,
        member: Member,
        archive: &mut Archive<'_>,
        limits: &Limits,
    ) -> Result<(), LayerError> {
        // What means nothing counts too: it costs time to read.
        self.entries += 1;
        if self.entries > limits.entries {
            return Err(LayerError::TooLarge { what: "entries", limit: limits.entries });
        }
        let entry = match member.meaning {
            Meaning::Nothing => return Ok(()),
            Meaning::Whiteout(path) => mark(path, Kind::Whiteout),
            Meaning::Opaque(path) => mark(path, Kind::Opaque),
            Meaning::Entry(path) => {
                let kind = match member.kind {
                    MemberKind::File => Kind::File(self.content(member.size, archive)?),
                    MemberKind::Directory => Kind::Directory,
                    MemberKind::Symlink(target) => Kind::Symlink(target),
                    MemberKind::HardLink(target) => Kind::HardLink(target),
                    MemberKind::Character(device) => Kind::Character(device),
                    MemberKind::Block(device) => Kind::Block(device),
                    MemberKind::Fifo => Kind::Fifo,
                };
                Entry { path, meta: member.meta, kind }
            }
        };
        self.encoded.clear();
        entry.encode(&mut self.encoded);
        self.name_bytes += self.encoded.len() as u64;
        if self.name_bytes > limits.name_bytes {
            let limit = limits.name_bytes;
            return Err(LayerError::TooLarge { what: "bytes of names and attributes", limit });
        }
        Ok(self.index.write(&self.encoded)?)
    }

    fn content(&mut self, size: u64, archive: &mut Archive<'_>) -> Result<Content, LayerError> {
        if size <= SMALL_MAX {
            let offset = self.small.length();
            let copied = copy(archive, &mut self.small)?;
            return Ok(Content::Small { offset, size: u32::try_from(copied).unwrap_or(u32::MAX) });
        }
        let block = u32::try_from(self.data.length() / BLOCK_SIZE);
        let too_large =
            |_| LayerError::TooLarge { what: "blocks of 4096 bytes", limit: u64::from(u32::MAX) };
        let block = block.map_err(too_large)?;
        copy(archive, &mut self.data)?;
        self.data.pad_block()?;
        Ok(Content::Data { block, size })
    }
}

/// A whiteout has nothing but a name.
fn mark(path: EntryPath, kind: Kind) -> Entry {
    Entry { path, meta: Meta::default(), kind }
}

fn copy(archive: &mut Archive<'_>, to: &mut Output) -> Result<u64, LayerError> {
    let mut copied = 0;
    loop {
        let bytes = archive.content()?;
        if bytes.is_empty() {
            return Ok(copied);
        }
        to.write(bytes)?;
        copied += bytes.len() as u64;
    }
}
