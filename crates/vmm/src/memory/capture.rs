//! Changed pages of a guest, copied out of its memory.

use std::path::Path;

use super::{PAGE, PageStats, pages::Writer};
use crate::VmError;

/// Pages that lie next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub first: u64,
    pub pages: u64,
}

/// The changed pages of a guest as they were at one moment.
#[derive(Debug)]
pub struct Capture {
    pub(super) spans: Vec<Span>,
    pub(super) data: Vec<u8>,
    pub(super) guest_pages: u64,
}

impl Capture {
    /// Writes the pages to a new page file at `path`, flushed, as [`GuestMemory::save`] does.
    ///
    /// [`GuestMemory::save`]: super::GuestMemory::save
    pub fn save(&self, template: &[u8; 32], path: &Path) -> Result<PageStats, VmError> {
        let writing = "write the page file";
        let mut writer = Writer::create(path).map_err(VmError::io(writing))?;
        let indices = self.spans.iter().flat_map(|span| span.first..span.first + span.pages);
        for (index, page) in indices.zip(self.data.chunks_exact(PAGE)) {
            writer.push(index, page).map_err(VmError::io(writing))?;
        }
        writer.finish(template, self.guest_pages).map_err(VmError::io(writing))
    }

    /// How much memory it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.data.len() as u64
    }
}
