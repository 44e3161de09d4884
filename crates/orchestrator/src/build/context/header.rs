//! Making tar headers.

use tar::EntryType;

use super::archive::BLOCK;

/// Bytes that a header has for a name.
const NAME: usize = 100;

/// What ends an archive.
pub(crate) const END: [u8; 1024] = [0; 1024];

const ZEROS: [u8; 512] = [0; 512];

/// What an archive is to say of an entry.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub kind: EntryType,
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: u64,
    pub size: u64,
}

impl Header<'_> {
    /// The bytes before the content; names of any length.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name) in
            [(EntryType::GNULongLink, self.link), (EntryType::GNULongName, self.name)]
        {
            if name.len() > NAME {
                let size = name.len() as u64 + 1;
                let long = Header { kind, name: b"././@LongLink", link: b"", size, ..*self };
                bytes.extend(long.block());
                bytes.extend_from_slice(name);
                bytes.push(0);
                bytes.extend_from_slice(padding(size));
            }
        }
        bytes.extend(self.block());
        bytes
    }

    fn block(&self) -> [u8; 512] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0.into());
        header.set_gid(self.owner.1.into());
        header.set_mtime(self.mtime);
        header.set_size(self.size);
        let fields = header.as_old_mut();
        let put = |field: &mut [u8; NAME], bytes: &[u8]| {
            let count = bytes.len().min(NAME);
            field[..count].copy_from_slice(&bytes[..count]);
        };
        put(&mut fields.name, self.name);
        put(&mut fields.linkname, self.link);
        header.set_cksum();
        *header.as_bytes()
    }
}

/// What fills a content of that size up to a whole block.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    let left = size.next_multiple_of(BLOCK) - size;
    &ZEROS[..usize::try_from(left).unwrap_or(0)]
}
