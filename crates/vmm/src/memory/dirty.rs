//! Finding, saving and putting back the pages that a child wrote.
//!
//! `/proc/PID/pagemap` tells for every page of the guest whether it is anonymous (bit 61 clear,
//! bit 63 or 62 set: present or swapped), which in a private file mapping means written. See
//! Documentation/admin-guide/mm/pagemap.rst of the kernel.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{
    Capture, PAGE, PageFile, PageStats, Ram,
    capture::Span,
    pages::{SEGMENT, Writer},
};
use crate::VmError;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_BACKED: u64 = 1 << 61;

/// Page map entries read at a time.
const ENTRIES: usize = 64 << 10;

/// The memory of a VM whose monitor runs, as this host sees it.
#[derive(Debug)]
pub struct GuestMemory {
    ram: Ram,
    access: Access,
}

#[derive(Debug)]
enum Access {
    /// The VM shares the memory file, so the file is the memory.
    Shared,
    /// The VM maps a template privately: its own pages are only in its monitor.
    Private { pid: i32, start: u64 },
}

impl GuestMemory {
    /// Finds `ram` in the address space of process `pid`.
    pub(crate) fn of(pid: i32, ram: Ram) -> Result<Self, VmError> {
        if !ram.is_sealed() {
            return Ok(Self { ram, access: Access::Shared });
        }
        let inode = ram.inode().map_err(VmError::io("look at the guest's memory file"))?;
        let maps = fs_err::read_to_string(format!("/proc/{pid}/maps"))
            .map_err(VmError::io("read the monitor's memory map"))?;
        let start = locate(&maps, inode, ram.bytes()).ok_or_else(|| {
            VmError::io("find the guest's memory in the monitor")(io::ErrorKind::NotFound.into())
        })?;
        Ok(Self { ram, access: Access::Private { pid, start } })
    }

    /// Writes the pages that make this guest different from its template, or from zeroed memory,
    /// to a new file at `path`, flushed. The VM must be paused. `template` is kept in the file so
    /// that it is never put on another template.
    pub fn save(&self, template: &[u8; 32], path: &Path) -> Result<PageStats, VmError> {
        let writing = "write the page file";
        let mut writer = Writer::create(path).map_err(VmError::io(writing))?;
        let mut push = |index, page: &[u8]| writer.push(index, page).map_err(VmError::io(writing));
        match self.access {
            Access::Shared => {
                let result = self
                    .ram
                    .each_touched_page(|index, page| push(index, page).map_err(Fault::Ours));
                result.map_err(|fault| match fault {
                    Fault::Ours(error) => error,
                    Fault::Reading(error) => VmError::io("read the guest's memory")(error),
                })?;
            }
            Access::Private { pid, start } => each_dirty_page(pid, start, self.pages(), push)?,
        }
        writer.finish(template, self.pages()).map_err(VmError::io(writing))
    }

    /// Copies the pages that make this guest different from its template, or from zeroed memory.
    /// The VM must be paused until this returns.
    pub fn capture(&self) -> Result<Capture, VmError> {
        let mut data = Vec::new();
        let mut spans: Vec<Span> = Vec::new();
        let mut push = |index, page: &[u8]| {
            match spans.last_mut() {
                Some(span) if span.first + span.pages == index => span.pages += 1,
                _ => spans.push(Span { first: index, pages: 1 }),
            }
            data.extend_from_slice(page);
        };
        match self.access {
            Access::Shared => self
                .ram
                .each_touched_page(|index, page| {
                    push(index, page);
                    Ok(())
                })
                .map_err(|error: io::Error| VmError::io("read the guest's memory")(error))?,
            Access::Private { pid, start } => each_dirty_page(pid, start, self.pages(), |i, p| {
                push(i, p);
                Ok(())
            })?,
        }
        Ok(Capture { spans, data, guest_pages: self.pages() })
    }

    /// Puts captured pages into a VM that has not loaded its device state yet.
    pub fn place(&self, capture: &Capture) -> Result<(), VmError> {
        let filling = "fill the new VM's memory";
        let memory = match self.access {
            Access::Shared => None,
            Access::Private { pid, .. } => {
                Some(open_memory(pid, true).map_err(VmError::io(filling))?)
            }
        };
        let mut data = capture.data.as_slice();
        for span in &capture.spans {
            let (part, rest) = data.split_at(usize::try_from(span.pages).unwrap_or(0) * PAGE);
            let at = span.first * PAGE as u64;
            match (&self.access, &memory) {
                (Access::Private { start, .. }, Some(memory)) => {
                    memory.write_all_at(part, start + at).map_err(VmError::io(filling))?;
                }
                _ => self.ram.write(at, part).map_err(VmError::io(filling))?,
            }
            data = rest;
        }
        Ok(())
    }

    /// Puts saved pages into a VM that has not loaded its device state yet.
    pub fn restore(&self, file: PageFile) -> Result<(), VmError> {
        let filling = "fill the new VM's memory";
        match self.access {
            Access::Shared => {
                place_pages(file, |at, data| self.ram.write(at, data).map_err(VmError::io(filling)))
            }
            Access::Private { pid, start } => {
                let memory = open_memory(pid, true).map_err(VmError::io(filling))?;
                place_pages(file, |at, data| {
                    memory.write_all_at(data, start + at).map_err(VmError::io(filling))
                })
            }
        }
    }

    fn pages(&self) -> u64 {
        self.ram.bytes() / PAGE as u64
    }
}

enum Fault {
    Reading(io::Error),
    Ours(VmError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Reading(error)
    }
}

/// The address at which the file `inode` is mapped whole. The kernel may show one mapping as
/// several adjoining ones.
fn locate(maps: &str, inode: u64, bytes: u64) -> Option<u64> {
    let mut start = None;
    let mut covered = 0;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let offset = fields.nth(1)?;
        let found: u64 = fields.nth(1)?.parse().ok()?;
        if found != inode {
            continue;
        }
        let from = u64::from_str_radix(from, 16).ok()?;
        let to = u64::from_str_radix(to, 16).ok()?;
        let offset = u64::from_str_radix(offset, 16).ok()?;
        if offset == 0 {
            start = Some(from);
            covered = 0;
        }
        if start.is_some_and(|s| s + covered == from) && offset == covered {
            covered += to - from;
        }
        if covered == bytes {
            return start;
        }
    }
    None
}

fn each_dirty_page(
    pid: i32,
    start: u64,
    pages: u64,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), VmError>,
) -> Result<(), VmError> {
    let reading = "read the guest's memory";
    let memory = open_memory(pid, false).map_err(VmError::io(reading))?;
    let mut buffer = vec![0u8; SEGMENT];
    each_dirty_range(pid, start, pages, |first, end| {
        let mut page = first;
        while page < end {
            let count = (end - page).min((SEGMENT / PAGE) as u64);
            let part = &mut buffer[..usize::try_from(count).unwrap_or(0) * PAGE];
            memory.read_exact_at(part, start + page * PAGE as u64).map_err(VmError::io(reading))?;
            for (index, content) in (page..).zip(part.chunks_exact(PAGE)) {
                visit(index, content)?;
            }
            page += count;
        }
        Ok(())
    })
}

fn each_dirty_range(
    pid: i32,
    start: u64,
    pages: u64,
    mut visit: impl FnMut(u64, u64) -> Result<(), VmError>,
) -> Result<(), VmError> {
    let pagemap: File = fs_err::File::open(format!("/proc/{pid}/pagemap"))
        .map_err(VmError::io("open the monitor's page map"))?
        .into();
    let mut entries = vec![0u8; ENTRIES * 8];
    let mut run: Option<u64> = None;
    let mut page = 0;
    while page < pages {
        let count = usize::try_from(pages - page).unwrap_or(ENTRIES).min(ENTRIES);
        let at = (start / PAGE as u64 + page) * 8;
        pagemap
            .read_exact_at(&mut entries[..count * 8], at)
            .map_err(VmError::io("read the monitor's page map"))?;
        for (index, entry) in (page..).zip(entries[..count * 8].chunks_exact(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
            let dirty = entry & (PRESENT | SWAPPED) != 0 && entry & FILE_BACKED == 0;
            match (dirty, run) {
                (true, None) => run = Some(index),
                (false, Some(first)) => {
                    visit(first, index)?;
                    run = None;
                }
                _ => {}
            }
        }
        page += count as u64;
    }
    match run {
        Some(first) => visit(first, pages),
        None => Ok(()),
    }
}

/// Calls `place` with byte offset and content for everything in the file.
fn place_pages(
    file: PageFile,
    place: impl Fn(u64, &[u8]) -> Result<(), VmError>,
) -> Result<(), VmError> {
    let zeros = vec![0u8; SEGMENT];
    for run in file.runs.iter().filter(|r| r.zero) {
        let mut left = usize::try_from(run.pages).unwrap_or(0) * PAGE;
        let mut at = run.first * PAGE as u64;
        while left > 0 {
            let count = left.min(SEGMENT);
            place(at, &zeros[..count])?;
            at += count as u64;
            left -= count;
        }
    }
    let runs: Vec<_> = file.runs.iter().copied().filter(|r| !r.zero).collect();
    let mut current = runs.into_iter();
    let mut at = 0;
    let mut left = 0;
    file.each_segment(|mut data| {
        while !data.is_empty() {
            if left == 0 {
                let Some(run) = current.next() else { break };
                at = run.first * PAGE as u64;
                left = usize::try_from(run.pages).unwrap_or(0) * PAGE;
            }
            let count = left.min(data.len());
            place(at, &data[..count])?;
            data = &data[count..];
            at += count as u64;
            left -= count;
        }
        Ok(())
    })
}

fn open_memory(pid: i32, write: bool) -> io::Result<File> {
    let path = format!("/proc/{pid}/mem");
    Ok(fs_err::OpenOptions::new().read(true).write(write).open(path)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_mapping_is_found_and_a_partial_one_is_not() {
        let maps = "\
7f0000000000-7f0000200000 rw-p 00000000 00:01 77   /memfd:other (deleted)
7f1000000000-7f1000100000 rw-p 00000000 00:01 42   /memfd:bhatti-ram (deleted)
7f1000100000-7f1000400000 rw-p 00100000 00:01 42   /memfd:bhatti-ram (deleted)
7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0    [stack]
";
        assert_eq!(locate(maps, 42, 4 << 20), Some(0x7f10_0000_0000));
        assert_eq!(locate(maps, 42, 5 << 20), None);
        assert_eq!(locate(maps, 43, 4 << 20), None);
    }
}
