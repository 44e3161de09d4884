//! From a disk to a stream.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::Compressor;

use super::{
    CHUNK, CHUNK_HEAD, CODING_RAW, CODING_ZSTD, GRAIN, MAGIC, Manifest, Progress, TAG_CHUNK,
    TAG_END, Totals, VERSION,
};
use crate::source::Source;

/// zstd's own default. A disk of programs becomes 30 % of itself at 300 MB/s a core.
const LEVEL: i32 = 3;

/// Writes the backup of `source`, and says how much it holds. Nothing is flushed.
///
/// # Errors
/// If reading, writing or `progress` fails.
pub fn write(
    source: &mut dyn Source,
    manifest: &Manifest,
    out: &mut dyn Write,
    progress: Progress<'_>,
) -> io::Result<Totals> {
    let mut writer = Writer {
        out,
        hasher: Sha256::new(),
        compressor: Compressor::new(LEVEL)?,
        record: Vec::with_capacity(CHUNK + 2 * CHUNK_HEAD),
        totals: Totals::default(),
    };
    writer.header(manifest)?;
    let grid = CHUNK as u64;
    let mut buffer = vec![0; CHUNK];
    let mut from = 0;
    while let Some(data) = source.next_data(from)? {
        if data.start >= manifest.size {
            break;
        }
        // Whole cells of the grid: which bytes lie in one chunk does not depend on how the ranges
        // are cut.
        let start = data.start.max(from) / grid * grid;
        let end = manifest.size.min(start + grid);
        let length = usize::try_from(end - start).unwrap_or(CHUNK);
        source.read_at(&mut buffer[..length], start)?;
        writer.chunk(&buffer[..length], start)?;
        progress(end)?;
        from = end;
    }
    progress(manifest.size)?;
    writer.end()
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    hasher: Sha256,
    compressor: Compressor<'static>,
    record: Vec<u8>,
    totals: Totals,
}

impl Writer<'_> {
    fn header(&mut self, manifest: &Manifest) -> io::Result<()> {
        let json = serde_json::to_vec(manifest).map_err(io::Error::other)?;
        self.record.extend_from_slice(MAGIC);
        self.record.extend_from_slice(&VERSION.to_le_bytes());
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        self.record.extend_from_slice(&length.to_le_bytes());
        self.record.extend_from_slice(&json);
        self.checked()
    }

    fn chunk(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let Some((skipped, data)) = trim(data) else { return Ok(()) };
        let compressed = self.compressor.compress(data)?;
        let (coding, stored) = if compressed.len() < data.len() {
            (CODING_ZSTD, compressed.as_slice())
        } else {
            (CODING_RAW, data)
        };
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.record.extend_from_slice(&[TAG_CHUNK, coding, 0, 0]);
        self.record.extend_from_slice(&length(data));
        self.record.extend_from_slice(&length(stored));
        self.record.extend_from_slice(&(offset + skipped as u64).to_le_bytes());
        self.record.extend_from_slice(stored);
        self.totals.chunks += 1;
        self.totals.data += data.len() as u64;
        self.checked()
    }

    fn end(mut self) -> io::Result<Totals> {
        self.record.extend_from_slice(&[TAG_END, 0, 0, 0]);
        self.record.extend_from_slice(&self.totals.chunks.to_le_bytes());
        self.record.extend_from_slice(&self.totals.data.to_le_bytes());
        self.hasher.update(&self.record);
        let hash = self.hasher.finalize();
        self.out.write_all(&self.record)?;
        self.out.write_all(&hash)?;
        Ok(self.totals)
    }

    /// Writes what was gathered, and its checksum.
    fn checked(&mut self) -> io::Result<()> {
        let sum = xxh3_64(&self.record);
        self.record.extend_from_slice(&sum.to_le_bytes());
        self.hasher.update(&self.record);
        self.out.write_all(&self.record)?;
        self.record.clear();
        Ok(())
    }
}

/// What is left without the zeros at both ends, and how many bytes were before it.
fn trim(data: &[u8]) -> Option<(usize, &[u8])> {
    let holds = |grain: &[u8]| grain.iter().any(|byte| *byte != 0);
    let first = data.chunks(GRAIN).position(holds)? * GRAIN;
    let last = data.chunks(GRAIN).rposition(holds)? * GRAIN;
    let end = data.len().min(last + GRAIN);
    Some((first, &data[first..end]))
}
