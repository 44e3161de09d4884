//! Members of an archive, by the names that its documents say.

use std::{
    io::{self, Read, SeekFrom},
    path::Path,
};

use base::hash;
use serde::de::DeserializeOwned;

use super::{ArchiveError, Wanted};
use crate::layer::{
    self, LayerId,
    outer::{Member, Members, Source},
    shown,
};

/// Longest document, in bytes.
const DOCUMENT_MAX: u64 = 4 << 20;

pub(super) struct Reader<'a> {
    archive: &'a mut dyn Source,
    members: Members,
}

/// What a blob has to be.
pub(super) struct Blob<'a> {
    pub(super) name: &'a str,
    /// SHA-256, hexadecimal, if it is known.
    pub(super) sha256: Option<&'a str>,
    /// In bytes, if it is known.
    pub(super) size: Option<u64>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(archive: &'a mut dyn Source, members: Members) -> Self {
        Self { archive, members }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    /// Reads a document as JSON.
    pub(super) fn json<T: DeserializeOwned>(&mut self, blob: &Blob<'_>) -> Result<T, ArchiveError> {
        let text = self.document(blob)?;
        serde_json::from_slice(&text).map_err(|error| ArchiveError::Document {
            name: shown(blob.name.as_bytes()),
            reason: shown(error.to_string().as_bytes()),
        })
    }

    /// Reads a document.
    pub(super) fn document(&mut self, blob: &Blob<'_>) -> Result<Vec<u8>, ArchiveError> {
        let name = || shown(blob.name.as_bytes());
        let mut content = self.open(blob)?;
        if content.left > DOCUMENT_MAX {
            return Err(ArchiveError::TooLarge { name: name(), limit: DOCUMENT_MAX });
        }
        let mut text = Vec::new();
        content.read_to_end(&mut text).map_err(ArchiveError::Source)?;
        content.check(blob)?;
        Ok(text)
    }

    /// Stores a layer.
    pub(super) fn layer(
        &mut self,
        data: &Path,
        blob: &Blob<'_>,
        id: &LayerId,
        wanted: Wanted<'_>,
    ) -> Result<(), ArchiveError> {
        let mut content = self.open(blob)?;
        layer::add(data, &mut content, Some(id), wanted.limits)?;
        io::copy(&mut content, &mut io::sink()).map_err(ArchiveError::Source)?;
        content.check(blob)
    }

    fn open(&mut self, blob: &Blob<'_>) -> Result<Content<'_>, ArchiveError> {
        let name = || shown(blob.name.as_bytes());
        let Some((at, size)) = self.find(blob.name.as_bytes()) else {
            return Err(ArchiveError::Missing { name: name() });
        };
        if let Some(told) = blob.size.filter(|told| *told != size) {
            let reason = format!("it has {size} bytes instead of {told}");
            return Err(ArchiveError::Digest { name: name(), reason });
        }
        self.archive.seek(SeekFrom::Start(at)).map_err(ArchiveError::Source)?;
        Ok(Content { archive: &mut *self.archive, left: size, hash: hash::Stream::default() })
    }

    /// Where a file is. Docker writes a link where it has written the same before; a link to a
    /// link is none of its.
    fn find(&self, name: &[u8]) -> Option<(u64, u64)> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let file = |member: &Member| match member {
            Member::File { at, size } => Some((*at, *size)),
            Member::Link(_) | Member::Several => None,
        };
        match self.members.get(name)? {
            Member::Link(target) => {
                let target = target.strip_prefix(b"./").unwrap_or(target);
                file(self.members.get(target)?)
            }
            member => file(member),
        }
    }
}

/// One member's content.
struct Content<'a> {
    archive: &'a mut dyn Source,
    left: u64,
    hash: hash::Stream,
}

impl Content<'_> {
    /// Whether all that was read is what it should be.
    fn check(self, blob: &Blob<'_>) -> Result<(), ArchiveError> {
        let found = self.hash.finish();
        match blob.sha256 {
            Some(expected) if *expected != found => Err(ArchiveError::Digest {
                name: shown(blob.name.as_bytes()),
                reason: format!("its sha256 is {found} instead of {expected}"),
            }),
            _ => Ok(()),
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.archive.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hash.update(&buffer[..read]);
        self.left -= read as u64;
        Ok(read)
    }
}
