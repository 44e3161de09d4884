//! What a job has written, on the guest's disk.
//!
//! ```text
//!   <start of segment>    records: kind, length (u32, little-endian), bytes
//!   <start of the next>   …                                              ─┐ oldest go first
//!   pending               the newest records, in memory, written together ┘
//! ```
//!
//! A cursor counts bytes of both outputs. What cannot be written is lost: its cursors are used up,
//! the next segment begins after them, and its first record says so.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use proto::frame::FrameKind;

use super::reader::last_cursor;

/// Bytes of output that are kept of a job unless told otherwise.
const KEEP_DEFAULT: u64 = 16 << 20;
const KEEP_MIN: u64 = 64 << 10;
const KEEP_MAX: u64 = 1 << 30;

/// Bytes of a segment's file.
const SEGMENT_MAX: u64 = 1 << 20;

/// Bytes that are gathered before they are written.
const PENDING_MAX: usize = 32 << 10;

/// The directory that may be everybody's is so far above that of a job: `/var/log`.
const ABOVE: usize = 3;

/// Bytes of a record before its payload.
pub(super) const HEADER: usize = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    directory: PathBuf,
    segment_max: u64,
    keep: u64,
    pub(super) segments: VecDeque<Segment>,
    /// Records that are not on the disk yet.
    pub(super) pending: Vec<u8>,
    /// Cursor of their first byte.
    pub(super) pending_start: u64,
    /// Where in `pending` the last record begins.
    last_record: Option<usize>,
    end: u64,
    /// Why the last write failed, and how many bytes are lost since the last that did not.
    failure: Option<(String, u64)>,
}

/// A file of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    bytes: u64,
}

impl Log {
    /// An empty log that will be in `directory`, which is made when it is needed. Keeps at most
    /// `keep` bytes, within bounds.
    pub(super) fn new(directory: PathBuf, keep: Option<u64>) -> Self {
        let keep = keep.unwrap_or(KEEP_DEFAULT).clamp(KEEP_MIN, KEEP_MAX);
        Self {
            directory,
            segment_max: (keep / 4).min(SEGMENT_MAX),
            keep,
            segments: VecDeque::new(),
            pending: Vec::new(),
            pending_start: 0,
            last_record: None,
            end: 0,
            failure: None,
        }
    }

    /// The log that an earlier agent has left in `directory`, ending at `end` if that is known.
    pub(super) fn load(directory: PathBuf, end: Option<u64>) -> Self {
        let mut log = Self::new(directory, None);
        let entries = fs::read_dir(&log.directory).into_iter().flatten().filter_map(Result::ok);
        let mut segments: Vec<Segment> = entries
            .filter_map(|entry| {
                let start = entry.file_name().to_str()?.parse().ok()?;
                Some(Segment { start, bytes: entry.metadata().ok()?.len() })
            })
            .collect();
        segments.sort_by_key(|segment| segment.start);
        let found = |segment: &Segment| last_cursor(&log.path(segment.start), segment.start);
        let end = end.or_else(|| segments.last().map(found)).unwrap_or(0);
        segments.retain(|segment| segment.start <= end);
        log.segments = segments.into();
        (log.end, log.pending_start) = (end, end);
        log
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, start: u64) -> PathBuf {
        self.directory.join(format!("{start:020}"))
    }

    /// Cursor of the oldest byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.segments.front().map_or(self.pending_start, |segment| segment.start)
    }

    /// Cursor after the newest byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether there is something to be written to the disk.
    pub(super) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds output.
    pub(super) fn push(&mut self, kind: FrameKind, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.room();
            let wanted = if self.continues(kind) { room } else { room.saturating_sub(HEADER) };
            if wanted == 0 {
                self.flush();
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(wanted));
            self.append(kind, now);
            rest = later;
        }
    }

    fn room(&self) -> usize {
        self.pending_max().saturating_sub(self.pending.len())
    }

    fn pending_max(&self) -> usize {
        usize::try_from(self.segment_max).unwrap_or(PENDING_MAX).min(PENDING_MAX)
    }

    /// Whether the last record can grow.
    fn continues(&self, kind: FrameKind) -> bool {
        self.last_record.is_some_and(|at| self.pending.get(at) == Some(&(kind as u8)))
    }

    fn append(&mut self, kind: FrameKind, bytes: &[u8]) {
        if !self.continues(kind) {
            self.last_record = Some(self.pending.len());
            self.pending.push(kind as u8);
            self.pending.extend([0; 4]);
        }
        self.pending.extend(bytes);
        let at = self.last_record.unwrap_or(0);
        let length = u32::try_from(self.pending.len() - at - HEADER).unwrap_or(u32::MAX);
        self.pending[at + 1..at + HEADER].copy_from_slice(&length.to_le_bytes());
        self.end += bytes.len() as u64;
    }

    /// Writes what is pending; it is lost if that fails.
    pub(super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        match self.write_pending() {
            Ok(()) => self.failure = None,
            Err(error) => {
                let lost = self.failure.take().map_or(0, |(_, lost)| lost);
                let lost = lost + (self.end - self.pending_start);
                self.failure = Some((error.to_string(), lost));
            }
        }
        self.pending.clear();
        self.last_record = None;
        self.pending_start = self.end;
        if self.pending.capacity() > PENDING_MAX {
            self.pending = Vec::new();
        }
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let mut head = Vec::new();
        let mut start = self.pending_start;
        if let Some((error, lost)) = &self.failure {
            // In the place of what is lost, so that no cursor changes.
            let note = format!("\n[output is missing here: {error}]\n");
            let length = usize::try_from(*lost).unwrap_or(usize::MAX).min(note.len());
            start -= length as u64;
            head.push(FrameKind::Stderr as u8);
            head.extend(u32::try_from(length).unwrap_or(0).to_le_bytes());
            head.extend(&note.as_bytes()[..length]);
        }
        let length = (head.len() + self.pending.len()) as u64;
        let total =
            |segments: &VecDeque<Segment>| -> u64 { segments.iter().map(|s| s.bytes).sum() };
        // What will be pending counts too.
        let most = self.keep - self.pending_max() as u64;
        while self.segments.len() > 1 && total(&self.segments) + length > most {
            if let Some(oldest) = self.segments.pop_front() {
                // One that is gone already makes room too.
                let _ = fs::remove_file(self.path(oldest.start));
            }
        }
        let last = self.segments.back().copied();
        let fits =
            last.filter(|last| self.failure.is_none() && last.bytes + length <= self.segment_max);
        let segment = fits.unwrap_or(Segment { start, bytes: 0 });
        let path = self.path(segment.start);
        let file = self.open(&path, segment.bytes == 0)?;
        let written = (&file).write_all(&head).and_then(|()| (&file).write_all(&self.pending));
        if let Err(error) = written {
            // Half a record would be taken for damage.
            let _ = file.set_len(segment.bytes);
            if segment.bytes == 0 {
                let _ = fs::remove_file(&path);
            }
            return Err(error);
        }
        if fits.is_some() {
            self.segments.pop_back();
        }
        self.segments.push_back(Segment { bytes: segment.bytes + length, ..segment });
        Ok(())
    }

    fn open(&self, path: &Path, new: bool) -> io::Result<File> {
        let mut options = File::options();
        options.mode(0o600);
        if new {
            options.write(true).create(true).truncate(true);
        } else {
            options.append(true);
        }
        match options.open(path) {
            Err(error) if new && error.kind() == io::ErrorKind::NotFound => {
                make_directory(&self.directory)?;
                options.open(path)
            }
            other => other,
        }
    }

    /// Removes it from the disk. Readers find nothing more.
    pub(super) fn remove(&mut self) {
        self.segments.clear();
        self.pending.clear();
        self.last_record = None;
        self.pending_start = self.end;
        // What is gone already need not be removed.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Makes the directory of a job, which only root may enter, and those that lead to it.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    if let Some(system) = path.ancestors().nth(ABOVE) {
        DirBuilder::new().recursive(true).mode(0o755).create(system)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
