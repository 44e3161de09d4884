//! The file that holds a child's own pages.
//!
//! ```text
//! data     the stored pages, one u64 xxh3 after every megabyte of them
//! runs     (u64 first page, u32 pages, u32 zero?) each, in ascending order
//! footer   magic "BHATTIPG", u32 version, u32 page size, u64 guest pages, u64 runs,
//!          32 bytes template key, u64 xxh3 of the run table, u64 xxh3 of the footer so far
//! ```
//! All numbers are little-endian. The table comes last because which pages are zero is known only
//! when they have been read. Everything is bounded by the guest's size before it is trusted.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use base::fault;
use xxhash_rust::xxh3::xxh3_64;

use super::{PAGE, crew, spans::Span};
use crate::VmError;

const MAGIC: &[u8; 8] = b"BHATTIPG";
const VERSION: u32 = 1;
const FOOTER: usize = 8 + 4 + 4 + 8 + 8 + 32 + 8 + 8;
/// Where the footer starts, seen from the end of the file.
const FOOTER_BACK: i64 = 80;
const _: () = assert!(FOOTER == 80);
const RUN: usize = 16;
/// [`PAGE`] as the footer has it.
const PAGE_BYTES: u32 = 4096;
const _: () = assert!(PAGE == 4096);
/// Bytes of page data that one checksum covers.
pub(super) const SEGMENT: usize = 1 << 20;
/// The same in pages.
pub(super) const SEGMENT_PAGES: u64 = (SEGMENT / PAGE) as u64;
/// Length of a segment's checksum, bytes.
const SUM: usize = 8;
/// Segments that another thread is worth for.
pub(super) const SEGMENTS_WORTH: usize = 4;

/// Pages that lie next to each other and are stored, or are all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    pages: u32,
    zero: bool,
}

/// What a page file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageStats {
    /// Pages stored.
    pub stored: u64,
    /// Pages that are zero in the child though perhaps not in its template.
    pub zero: u64,
}

/// An open, checked page file.
#[derive(Debug)]
pub struct PageFile {
    path: PathBuf,
    file: File,
    runs: Vec<Run>,
}

fn corrupt(path: &Path, reason: impl Into<String>) -> VmError {
    VmError::Corrupt { path: path.to_owned(), reason: reason.into() }
}

impl PageFile {
    /// Opens a page file and checks its footer and run table; the data is checked while it is
    /// read. `template` is the key of the template that the pages belong on.
    pub fn open(path: &Path, template: &[u8; 32], guest_pages: u64) -> Result<Self, VmError> {
        let mut file = match fs_err::File::open(path) {
            Ok(file) => file.into(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(path, "it is missing"));
            }
            Err(error) => return Err(VmError::io("open the page file")(error)),
        };
        let (table, table_at) = read_table(&mut file, path, template, guest_pages)?;
        let runs = decode_runs(&table, guest_pages).map_err(|why| corrupt(path, why))?;
        let data = stats(&runs).stored * PAGE as u64;
        if data + data.div_ceil(SEGMENT as u64) * SUM as u64 != table_at {
            return Err(corrupt(path, "its data has another length than its run table says"));
        }
        Ok(Self { path: path.to_owned(), file, runs })
    }

    /// Asks the kernel to get it from the disk while something else is done.
    pub fn read_ahead(&self) {
        // Advice that is not taken does no harm.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::WillNeed);
    }

    /// Reads everything once and checks it, without using it.
    pub fn verify(&self) -> Result<(), VmError> {
        crew::each((0..self.segments()).collect(), SEGMENTS_WORTH, Vec::new, |buffer, index| {
            self.segment(index, buffer).map(drop)
        })
    }

    /// How many pages it holds.
    pub fn stats(&self) -> PageStats {
        stats(&self.runs)
    }

    /// The pages that are stored, or those that are zero.
    pub(super) fn spans(&self, zero: bool) -> Vec<Span> {
        let runs = self.runs.iter().filter(|run| run.zero == zero);
        runs.map(|run| Span { first: run.first, pages: u64::from(run.pages) }).collect()
    }

    fn segments(&self) -> u64 {
        self.stats().stored.div_ceil(SEGMENT_PAGES)
    }

    /// Reads and checks a segment of the stored pages; `buffer` is where, whatever it has held. All
    /// segments have [`SEGMENT_PAGES`] pages but the last.
    pub(super) fn segment<'a>(
        &self,
        index: u64,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], VmError> {
        let pages = (self.stats().stored - index * SEGMENT_PAGES).min(SEGMENT_PAGES);
        let bytes = usize::try_from(pages).unwrap_or(0) * PAGE;
        buffer.resize(bytes + SUM, 0);
        self.file
            .read_exact_at(buffer, index * (SEGMENT + SUM) as u64)
            .map_err(|_| corrupt(&self.path, "its data is cut off"))?;
        let (data, sum) = buffer.split_at(bytes);
        if xxh3_64(data).to_le_bytes() != sum {
            return Err(corrupt(&self.path, "its data does not match its checksum"));
        }
        Ok(data)
    }
}

/// The checked run table, still encoded, and where in the file it starts.
fn read_table(
    file: &mut File,
    path: &Path,
    template: &[u8; 32],
    guest_pages: u64,
) -> Result<(Vec<u8>, u64), VmError> {
    let too_short = |_| corrupt(path, "it is too short");
    let footer_at = file.seek(SeekFrom::End(-FOOTER_BACK)).map_err(too_short)?;
    let mut footer = [0u8; FOOTER];
    file.read_exact(&mut footer).map_err(too_short)?;
    let u64_at =
        |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(footer[at..at + 4].try_into().expect("four bytes"));
    if &footer[..8] != MAGIC || xxh3_64(&footer[..FOOTER - 8]) != u64_at(FOOTER - 8) {
        return Err(corrupt(path, "its footer is not whole"));
    }
    if u32_at(8) != VERSION || u32_at(12) != PAGE_BYTES {
        return Err(corrupt(path, format!("it has format {}", u32_at(8))));
    }
    if u64_at(16) != guest_pages || &footer[32..64] != template {
        return Err(corrupt(path, "it belongs to another template"));
    }
    let count = u64_at(24);
    if count > guest_pages {
        return Err(corrupt(path, "it has more runs than the guest has pages"));
    }
    let table_at = footer_at
        .checked_sub(count * RUN as u64)
        .ok_or_else(|| corrupt(path, "its run table is cut off"))?;
    let mut table = vec![0u8; usize::try_from(footer_at - table_at).unwrap_or(0)];
    file.seek(SeekFrom::Start(table_at))
        .and_then(|_| file.read_exact(&mut table))
        .map_err(|_| corrupt(path, "its run table is cut off"))?;
    if xxh3_64(&table) != u64_at(64) {
        return Err(corrupt(path, "its run table does not match its checksum"));
    }
    Ok((table, table_at))
}

fn stats(runs: &[Run]) -> PageStats {
    let count = |zero| runs.iter().filter(|r| r.zero == zero).map(|r| u64::from(r.pages)).sum();
    PageStats { stored: count(false), zero: count(true) }
}

fn decode_runs(table: &[u8], guest_pages: u64) -> Result<Vec<Run>, &'static str> {
    let mut runs = Vec::with_capacity(table.len() / RUN);
    let mut next = 0;
    for entry in table.chunks_exact(RUN) {
        let first = u64::from_le_bytes(entry[..8].try_into().expect("eight bytes"));
        let pages = u32::from_le_bytes(entry[8..12].try_into().expect("four bytes"));
        let zero = entry[12] != 0;
        let end = first.checked_add(u64::from(pages)).ok_or("a run wraps around")?;
        if pages == 0 || first < next || end > guest_pages {
            return Err("its runs are out of order or out of the guest's memory");
        }
        next = end;
        runs.push(Run { first, pages, zero });
    }
    Ok(runs)
}

/// Writes a page file in one pass.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    segment: Vec<u8>,
    runs: Vec<Run>,
}

impl Writer {
    /// Starts a new file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        fault::point("pages.create")?;
        let file = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?.into();
        Ok(Self { file, segment: Vec::with_capacity(SEGMENT + SUM), runs: Vec::new() })
    }

    /// Adds the next page. Pages come in ascending order.
    pub(super) fn push(&mut self, index: u64, page: &[u8]) -> io::Result<()> {
        let zero = page.iter().all(|b| *b == 0);
        match self.runs.last_mut() {
            Some(run)
                if run.zero == zero
                    && run.first + u64::from(run.pages) == index
                    && run.pages < u32::MAX =>
            {
                run.pages += 1;
            }
            _ => self.runs.push(Run { first: index, pages: 1, zero }),
        }
        if zero {
            return Ok(());
        }
        self.segment.extend_from_slice(page);
        if self.segment.len() == SEGMENT { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let sum = xxh3_64(&self.segment);
        self.segment.extend_from_slice(&sum.to_le_bytes());
        fault::point("pages.write")?;
        self.file.write_all(&self.segment)?;
        self.segment.clear();
        Ok(())
    }

    /// Completes the file, flushes it to the disk and says what it holds.
    pub(super) fn finish(mut self, template: &[u8; 32], guest_pages: u64) -> io::Result<PageStats> {
        self.flush()?;
        let mut tail = Vec::with_capacity(self.runs.len() * RUN + FOOTER);
        for run in &self.runs {
            tail.extend_from_slice(&run.first.to_le_bytes());
            tail.extend_from_slice(&run.pages.to_le_bytes());
            tail.extend_from_slice(&u32::from(run.zero).to_le_bytes());
        }
        let footer_at = tail.len();
        let table_sum = xxh3_64(&tail);
        tail.extend_from_slice(MAGIC);
        tail.extend_from_slice(&VERSION.to_le_bytes());
        tail.extend_from_slice(&PAGE_BYTES.to_le_bytes());
        tail.extend_from_slice(&guest_pages.to_le_bytes());
        tail.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        tail.extend_from_slice(template);
        tail.extend_from_slice(&table_sum.to_le_bytes());
        let footer_sum = xxh3_64(&tail[footer_at..]);
        tail.extend_from_slice(&footer_sum.to_le_bytes());
        fault::point("pages.finish")?;
        self.file.write_all(&tail)?;
        fault::point("pages.flush")?;
        self.file.sync_data()?;
        Ok(stats(&self.runs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [9; 32];

    fn read(path: &Path) -> Result<Vec<u8>, VmError> {
        let (mut out, mut buffer) = (Vec::new(), Vec::new());
        let file = PageFile::open(path, &KEY, 1 << 20)?;
        for index in 0..file.segments() {
            out.extend_from_slice(file.segment(index, &mut buffer)?);
        }
        file.verify()?;
        Ok(out)
    }

    fn sample(dir: &Path) -> (PathBuf, Vec<u8>) {
        let path = dir.join("pages");
        let data: Vec<u8> = (0u8..=250).map(|i| i | 1).cycle().take(600 * PAGE).collect();
        let mut writer = Writer::create(&path).unwrap();
        for (index, page) in data.chunks(PAGE).enumerate() {
            let gap = if index < 500 { 3 } else { 500 };
            writer.push(index as u64 + gap, page).unwrap();
        }
        for index in 2000..2009 {
            writer.push(index, &[0; PAGE]).unwrap();
        }
        let stats = writer.finish(&KEY, 1 << 20).unwrap();
        assert_eq!(stats, PageStats { stored: 600, zero: 9 });
        (path, data)
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, data) = sample(dir.path());
        assert!(read(&path).unwrap() == data);
        let file = PageFile::open(&path, &KEY, 1 << 20).unwrap();
        assert_eq!(file.stats(), PageStats { stored: 600, zero: 9 });
        assert_eq!(file.runs.len(), 3);
        assert!(PageFile::open(&path, &[8; 32], 1 << 20).is_err(), "another template");
        assert!(PageFile::open(&path, &KEY, 1 << 19).is_err(), "another size");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_flipped_bit_or_a_cut_is_always_noticed(
            at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (path, _) = sample(dir.path());
            let mut bytes = fs_err::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            fs_err::write(&path, &bytes).unwrap();
            prop_assert!(read(&path).is_err());
            if let Ok(file) = PageFile::open(&path, &KEY, 1 << 20) {
                prop_assert!(file.verify().is_err());
            }
        }
    }
}
