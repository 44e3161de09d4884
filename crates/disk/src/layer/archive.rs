//! A tar archive as a sequence of entries: headers, extended headers and GNU's long names are put
//! together, everything is bounded and checked.
//!
//! Where formats contradict each other it reads as Go's `archive/tar` does, because that is what
//! writes and reads most layers.

use super::{
    LayerError,
    entries::{self, Blocks},
    error::shown,
    header::{BLOCK, Header},
    index::{Device, MAJOR_MAX, MINOR_MAX, Meta, Xattrs},
    input::Input,
    path::{EntryPath, Meaning, PATH_MAX, meaning},
    pax::Extensions,
};

/// Most bytes of names and values of one entry's extended attributes; a file system's inode has
/// room for four times that.
const XATTRS_MAX: usize = 64 << 10;

/// What is kept of extended attributes: capabilities, and what users set. Everything else belongs
/// to the machine where the layer was made.
const XATTRS_KEPT: [&[u8]; 2] = [b"security.capability", b"user."];

/// An entry whose content comes next in the archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) meaning: Meaning,
    pub(super) meta: Meta,
    pub(super) kind: MemberKind,
    /// Of the content, in bytes.
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) enum MemberKind {
    Directory,
    File,
    Symlink(Vec<u8>),
    HardLink(EntryPath),
    Character(Device),
    Block(Device),
    Fifo,
}

pub(super) struct Archive<'a> {
    input: Input<'a>,
    /// Bytes of the present entry's content that were not read.
    content: u64,
    /// Bytes between the content and the next header.
    padding: u64,
    /// The archive's end may be its last entry's end.
    may_lack_end: bool,
}

impl<'a> Archive<'a> {
    /// Without `may_lack_end` two blocks of zeros have to say where the archive ends.
    pub(super) fn new(input: Input<'a>, may_lack_end: bool) -> Self {
        Self { input, content: 0, padding: 0, may_lack_end }
    }

    /// The next entry. What was not read of the content before is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, LayerError> {
        match entries::next(self)? {
            Some((header, told)) => self.member(header, told).map(Some),
            None => Ok(None),
        }
    }

    /// Some bytes of the present entry's content; none at its end.
    pub(super) fn content(&mut self) -> Result<&[u8], LayerError> {
        let bytes = self.input.take(self.content)?;
        if bytes.is_empty() && self.content > 0 {
            return Err(LayerError::Truncated("a file's content is not complete"));
        }
        self.content -= bytes.len() as u64;
        Ok(bytes)
    }

    /// Reads what comes after the archive's end too, and says what the SHA-256 of everything is.
    pub(super) fn finish(self) -> Result<String, LayerError> {
        self.input.finish()
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn pass_over(&mut self) -> Result<(), LayerError> {
        while !self.content()?.is_empty() {}
        self.content = std::mem::take(&mut self.padding);
        // Who does not write the archive's end does not write the padding before it either.
        let may_be_missing = self.may_lack_end && self.input.is_at_end()?;
        self.content = if may_be_missing { 0 } else { self.content };
        while !self.content()?.is_empty() {}
        Ok(())
    }

    fn ended(&self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        if self.may_lack_end {
            return Ok(None);
        }
        Err(LayerError::Truncated("the archive's end is missing"))
    }

    fn one_block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        match self.input.read_up_to(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(LayerError::Truncated("a header is not complete")),
        }
    }

    fn member(&mut self, header: Header, told: Extensions) -> Result<Member, LayerError> {
        let name = told.path.unwrap_or(header.name);
        let refused = |reason| LayerError::Entry { name: shown(&name), reason };
        if told.sparse || header.kind == b'S' {
            return Err(refused("it is stored as a sparse file"));
        }
        let link = told.link.unwrap_or(header.link);
        let device = || device(header.major, header.minor).ok_or("its device number is too large");
        let kind = match header.kind {
            // So archives had directories before there was a kind for them.
            0 if name.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 | b'7' => MemberKind::File,
            b'1' => {
                MemberKind::HardLink(EntryPath::clean(&link).map_err(|_| LayerError::Link {
                    name: shown(&name),
                    target: shown(&link),
                    reason: "its target is not in the image",
                })?)
            }
            b'2' => MemberKind::Symlink(target(link).map_err(refused)?),
            b'3' => MemberKind::Character(device().map_err(refused)?),
            b'4' => MemberKind::Block(device().map_err(refused)?),
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            _ => return Err(refused("it is of a kind that is not known")),
        };
        let size = told.size.unwrap_or(header.size);
        let size = u64::try_from(size).map_err(|_| refused("its size is negative"))?;
        let size = if matches!(header.kind, b'0' | 0 | b'7') { size } else { 0 };
        let (mtime, nanoseconds) = told.mtime.unwrap_or((header.mtime, 0));
        // Linux has no modes of symbolic links: all of them are this.
        let mode = if header.kind == b'2' { 0o777 } else { header.mode & 0o7777 };
        let meta = Meta {
            mode: u16::try_from(mode).unwrap_or_default(),
            uid: id(told.uid.unwrap_or(header.uid))
                .ok_or_else(|| refused("its owner is too large or negative"))?,
            gid: id(told.gid.unwrap_or(header.gid))
                .ok_or_else(|| refused("its group is too large or negative"))?,
            mtime,
            nanoseconds,
            xattrs: xattrs(told.xattrs).map_err(refused)?,
        };
        let meaning = meaning(EntryPath::clean(&name)?)?;
        self.expect(size);
        Ok(Member { meaning, meta, kind, size })
    }
}

impl Blocks for Archive<'_> {
    fn begin(&mut self) -> Result<u64, LayerError> {
        self.pass_over()?;
        Ok(self.input.position())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let Some(block) = self.one_block()? else { return self.ended() };
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        let at = self.input.position() - BLOCK as u64;
        match self.one_block()? {
            None => self.ended(),
            Some(second) if second.iter().all(|byte| *byte == 0) => Ok(None),
            Some(_) => Err(LayerError::Header { at, reason: "it is one block of zeros alone" }),
        }
    }

    fn record(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        self.expect(size);
        let mut bytes = Vec::new();
        loop {
            match self.content()? {
                [] => return Ok(bytes),
                more => bytes.extend_from_slice(more),
            }
        }
    }

    fn pass(&mut self, size: u64) -> Result<(), LayerError> {
        self.expect(size);
        Ok(())
    }
}

/// The largest number means "no owner" to the kernel.
fn id(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

fn device(major: i64, minor: i64) -> Option<Device> {
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    (major <= MAJOR_MAX && minor <= MINOR_MAX).then_some(Device { major, minor })
}

/// A symbolic link may say anything that a path can be: it is followed inside of the guest only.
fn target(link: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    if link.is_empty() || link.len() >= PATH_MAX {
        return Err("its target is empty or longer than 4095 bytes");
    }
    if link.contains(&0) {
        return Err("its target has a zero byte");
    }
    Ok(link)
}

fn xattrs(all: Xattrs) -> Result<Xattrs, &'static str> {
    let mut kept: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| {
            XATTRS_KEPT.iter().any(|kept| {
                if kept.ends_with(b".") {
                    name.starts_with(kept) && name != kept
                } else {
                    name == kept
                }
            })
        })
        .collect();
    if kept.iter().any(|(name, _)| name.len() > 255 || name.contains(&0)) {
        return Err("the name of an extended attribute is too long or has a zero byte");
    }
    if kept.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > XATTRS_MAX {
        return Err("its extended attributes are larger than 64 KiB");
    }
    kept.sort();
    Ok(kept)
}
