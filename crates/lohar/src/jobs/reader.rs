//! Reading a job's log while it is written.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use proto::frame::FrameKind;

use super::log::{HEADER, Log};

/// Bytes read from a segment at once.
const READ_AHEAD: usize = 32 << 10;

/// Bytes that a record may have; the writer makes smaller ones.
const RECORD_MAX: u32 = 64 << 10;

/// A place in a log.
#[derive(Debug)]
pub(super) struct Reader {
    cursor: u64,
    open: Option<OpenSegment>,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Output, which ends at the cursor.
    Bytes(FrameKind, Vec<u8>),
    /// What was next is not kept any more; the cursor has moved to what is.
    Skipped,
    /// The end, for now.
    End,
}

#[derive(Debug)]
struct OpenSegment {
    file: BufReader<File>,
    start: u64,
    /// Cursor of the next record's first byte.
    at: u64,
}

/// A record of which only the header has been read.
struct Record {
    kind: FrameKind,
    length: u32,
}

impl Reader {
    /// A reader at `cursor`, or at the nearest byte that is kept.
    pub(super) fn at(log: &Log, cursor: u64) -> Self {
        Self { cursor: cursor.clamp(log.start(), log.end()), open: None }
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next piece of `log`.
    pub(super) fn step(&mut self, log: &Log) -> Step {
        while self.cursor < log.end() {
            if self.cursor >= log.pending_start {
                return self.in_memory(log);
            }
            if self.open.is_none() {
                let after = log.segments.partition_point(|one| one.start <= self.cursor);
                let found = after.checked_sub(1).and_then(|index| log.segments.get(index));
                let Some(segment) = found else { return self.skip_to(log.start()) };
                match OpenSegment::open(&log.path(segment.start), segment.start) {
                    Ok(open) => self.open = Some(open),
                    Err(_) => return self.skip_to(next_start(log, segment.start)),
                }
            }
            let Some(open) = &mut self.open else { continue };
            if let Some((kind, bytes)) = open.read_from(self.cursor) {
                self.cursor += bytes.len() as u64;
                return Step::Bytes(kind, bytes);
            }
            // Read to its end, or to where it is damaged.
            let next = next_start(log, open.start);
            self.open = None;
            if next > self.cursor {
                return self.skip_to(next);
            }
        }
        Step::End
    }

    fn skip_to(&mut self, cursor: u64) -> Step {
        self.open = None;
        self.cursor = cursor;
        Step::Skipped
    }

    fn in_memory(&mut self, log: &Log) -> Step {
        let (mut rest, mut at) = (log.pending.as_slice(), log.pending_start);
        while let Some((header, tail)) = rest.split_first_chunk::<HEADER>() {
            let Some(record) = Record::parse(*header) else { break };
            let Some((bytes, later)) = tail.split_at_checked(record.length as usize) else { break };
            let end = at + u64::from(record.length);
            if let Ok(skip) = usize::try_from(self.cursor - at)
                && end > self.cursor
            {
                self.cursor = end;
                return Step::Bytes(record.kind, bytes[skip..].to_vec());
            }
            (rest, at) = (later, end);
        }
        self.skip_to(log.end())
    }
}

/// Where the segment after the one that begins at `start` begins.
fn next_start(log: &Log, start: u64) -> u64 {
    let after = log.segments.partition_point(|one| one.start <= start);
    log.segments.get(after).map_or(log.pending_start, |segment| segment.start)
}

impl OpenSegment {
    fn open(path: &Path, start: u64) -> io::Result<Self> {
        Ok(Self { file: BufReader::with_capacity(READ_AHEAD, File::open(path)?), start, at: start })
    }

    /// The output at `cursor`, up to the end of its record; `None` if the file has none.
    fn read_from(&mut self, cursor: u64) -> Option<(FrameKind, Vec<u8>)> {
        loop {
            let record = self.header()?;
            let length = u64::from(record.length);
            if self.at + length <= cursor {
                self.file.seek_relative(i64::from(record.length)).ok()?;
                self.at += length;
                continue;
            }
            let mut bytes = vec![0; record.length as usize];
            self.file.read_exact(&mut bytes).ok()?;
            let skip = usize::try_from(cursor.checked_sub(self.at)?).ok()?;
            self.at += length;
            bytes.drain(..skip);
            return Some((record.kind, bytes));
        }
    }

    fn header(&mut self) -> Option<Record> {
        let mut header = [0; HEADER];
        self.file.read_exact(&mut header).ok()?;
        Record::parse(header)
    }
}

impl Record {
    fn parse(header: [u8; HEADER]) -> Option<Self> {
        let [kind, length @ ..] = header;
        let kind = FrameKind::try_from(kind).ok()?;
        let length = u32::from_le_bytes(length);
        let good = matches!(kind, FrameKind::Stdout | FrameKind::Stderr)
            && (1..=RECORD_MAX).contains(&length);
        good.then_some(Self { kind, length })
    }
}

/// Cursor after the last whole record of a segment.
pub(super) fn last_cursor(path: &Path, start: u64) -> u64 {
    let Ok(mut open) = OpenSegment::open(path, start) else { return start };
    while let Some(record) = open.header() {
        let mut payload = (&mut open.file).take(u64::from(record.length));
        match io::copy(&mut payload, &mut io::sink()) {
            Ok(copied) if copied == u64::from(record.length) => open.at += copied,
            _ => break,
        }
    }
    open.at
}
