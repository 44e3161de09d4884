//! Changed pages of a guest, copied out of its memory.

use std::path::Path;

use super::{PAGE, PageStats, pages::Writer, spans::Span};
use crate::VmError;

/// The changed pages of a guest as they were at one moment, in memory.
pub struct Capture {
    pub(super) spans: Vec<Span>,
    /// The content of all of them, one after the other.
    pub(super) data: Vec<u8>,
    pub(super) guest_pages: u64,
}

impl Capture {
    /// Writes the pages to a new page file at `path`, flushed. The file is as
    /// [`GuestMemory::save`](super::GuestMemory::save) writes it.
    ///
    /// # Errors
    /// [`VmError`] if the file cannot be written; what there is of it stays.
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

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
