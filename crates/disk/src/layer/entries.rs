//! What comes before an entry's content: its header, and what extended headers and GNU's long names
//! replace in it. Everything that reads tar archives puts them together here.

use super::{
    LayerError,
    header::{BLOCK, Header},
    pax::Extensions,
};

/// No extended header and no long name is larger than this, in bytes.
const EXTENSION_MAX: u64 = 1 << 20;

/// An archive that is read from one header to the next.
pub(super) trait Blocks {
    /// Passes over what was not read of the content before, and says where the next header is.
    fn begin(&mut self) -> Result<u64, LayerError>;

    /// The next block, which should be a header; `None` at the archive's end, whatever that is.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError>;

    /// A content of this size, which is no more than an extension may have.
    fn record(&mut self, size: u64) -> Result<Vec<u8>, LayerError>;

    /// Passes over a content of this size, now or with the next header.
    fn pass(&mut self, size: u64) -> Result<(), LayerError>;
}

/// The next entry's header, and what was said of it before; its content comes next.
pub(super) fn next(blocks: &mut impl Blocks) -> Result<Option<(Header, Extensions)>, LayerError> {
    let mut told = Extensions::default();
    let mut extended = false;
    loop {
        let at = blocks.begin()?;
        let malformed = |reason| LayerError::Header { at, reason };
        let Some(block) = blocks.block()? else {
            if extended {
                return Err(malformed("an extended header belongs to no entry"));
            }
            return Ok(None);
        };
        let header = Header::parse(&block).map_err(malformed)?;
        let size = u64::try_from(header.size).map_err(|_| malformed("its size is negative"))?;
        let mut record = || {
            if size > EXTENSION_MAX {
                return Err(malformed("its extension is larger than 1 MiB"));
            }
            blocks.record(size)
        };
        match header.kind {
            // Global headers say nothing that matters here, and volume labels nothing at all.
            b'g' | b'V' => {
                blocks.pass(size)?;
                continue;
            }
            b'x' => told.add(&record()?).map_err(malformed)?,
            b'L' => told.path = Some(text(record()?)),
            b'K' => told.link = Some(text(record()?)),
            _ => return Ok(Some((header, told))),
        }
        extended = true;
    }
}

/// A long name, which ends with a zero byte that some writers leave out.
fn text(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    name
}
