//! Finding, saving, copying and putting back the pages that make a guest different from what it
//! was made of.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{
    Capture, PAGE, PageFile, PageStats, Ram, crew,
    pages::{SEGMENT, SEGMENT_PAGES, SEGMENTS_WORTH, Writer},
    scan,
    spans::{self, Span, batches},
};
use crate::VmError;

/// How many pages one thread copies before it takes the next: 4 MiB.
const BATCH: u64 = 1024;
/// Batches that another thread is worth for.
const WORTH: usize = 2;
/// By how much a capture may be larger than what it was foreseen to be, as a part of it, and in
/// bytes.
const MARGIN: usize = 8;
const LEAST_MARGIN: usize = 1 << 20;

const READING: &str = "read the guest's memory";
const FILLING: &str = "fill the new VM's memory";

/// The memory of a VM whose monitor runs, as this host sees it.
#[derive(Debug)]
pub struct GuestMemory {
    ram: Ram,
    access: Access,
    room: Mutex<Vec<u8>>,
}

#[derive(Debug)]
enum Access {
    /// The VM shares the memory file, so the file is the memory.
    Shared,
    /// The VM maps a template privately: its own pages are only in its monitor.
    Private { pid: i32, start: u64 },
}

/// A file in which the guest's memory begins at `start`.
struct Window {
    file: File,
    start: u64,
}

impl GuestMemory {
    /// Finds `ram` in the address space of process `pid`.
    pub(crate) fn of(pid: i32, ram: Ram) -> Result<Self, VmError> {
        let room = Mutex::default();
        if !ram.is_sealed() {
            return Ok(Self { ram, access: Access::Shared, room });
        }
        let inode = ram.inode().map_err(VmError::io("look at the guest's memory file"))?;
        let maps = fs_err::read_to_string(format!("/proc/{pid}/maps"))
            .map_err(VmError::io("read the monitor's memory map"))?;
        let start = locate(&maps, inode, ram.bytes()).ok_or_else(|| {
            VmError::io("find the guest's memory in the monitor")(io::ErrorKind::NotFound.into())
        })?;
        Ok(Self { ram, access: Access::Private { pid, start }, room })
    }

    /// Writes the pages that make this guest different from its template, or from zeroed memory,
    /// to a new file at `path`, flushed. The VM must be paused. `template` is kept in the file so
    /// that it is never put on another template.
    pub fn save(&self, template: &[u8; 32], path: &Path) -> Result<PageStats, VmError> {
        let writing = "write the page file";
        let mut writer = Writer::create(path).map_err(VmError::io(writing))?;
        let memory = self.window(false).map_err(VmError::io(READING))?;
        let mut buffer = vec![0; SEGMENT];
        for batch in batches(&self.changed()?, SEGMENT_PAGES) {
            memory.read(&batch, &mut buffer).map_err(VmError::io(READING))?;
            let indices = batch.iter().flat_map(|span| span.first..span.first + span.pages);
            for (index, page) in indices.zip(buffer.chunks_exact(PAGE)) {
                writer.push(index, page).map_err(VmError::io(writing))?;
            }
        }
        writer.finish(template, self.pages()).map_err(VmError::io(writing))
    }

    /// Takes the memory from the host that the next capture will need. A guest that runs until then
    /// does not have to stand still for it.
    pub fn make_room(&self) -> Result<(), VmError> {
        let expected = spans::total(&self.changed()?);
        let mut room = vec![0u8; expected + LEAST_MARGIN.max(expected / MARGIN)];
        // The kernel gives a page when it is first written to.
        let parts = room.chunks_mut(spans::bytes(BATCH)).collect();
        crew::each(
            parts,
            WORTH,
            || (),
            |(), part: &mut [u8]| {
                part.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
                Ok(())
            },
        )?;
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = room;
        Ok(())
    }

    /// Copies the pages that make this guest different from its template, or from zeroed memory.
    /// The VM must be paused until this returns, which is sooner after [`make_room`].
    ///
    /// [`make_room`]: Self::make_room
    pub fn capture(&self) -> Result<Capture, VmError> {
        let memory = self.window(false).map_err(VmError::io(READING))?;
        let mut data =
            std::mem::take(&mut *self.room.lock().unwrap_or_else(PoisonError::into_inner));
        let spans = self.changed()?;
        data.resize(spans::total(&spans), 0);
        let parts = data.chunks_mut(spans::bytes(BATCH));
        let work = batches(&spans, BATCH).into_iter().zip(parts).collect();
        crew::each(
            work,
            WORTH,
            || (),
            |(), (batch, part): (Vec<Span>, &mut [u8])| {
                memory.read(&batch, part).map_err(VmError::io(READING))
            },
        )?;
        Ok(Capture { spans, data, guest_pages: self.pages() })
    }

    /// Puts captured pages into a VM that has not loaded its device state yet.
    ///
    /// # Errors
    /// [`VmError::Io`] if the capture is of a guest of another size, too.
    pub fn place(&self, capture: &Capture) -> Result<(), VmError> {
        if capture.guest_pages != self.pages() {
            return Err(VmError::io(FILLING)(io::ErrorKind::InvalidInput.into()));
        }
        let memory = self.window(true).map_err(VmError::io(FILLING))?;
        let parts = capture.data.chunks(spans::bytes(BATCH));
        let work = batches(&capture.spans, BATCH).into_iter().zip(parts).collect();
        crew::each(
            work,
            WORTH,
            || (),
            |(), (batch, part): (Vec<Span>, &[u8])| {
                memory.write(&batch, part).map_err(VmError::io(FILLING))
            },
        )
    }

    /// Puts saved pages into a VM that has not loaded its device state yet.
    pub fn restore(&self, file: &PageFile) -> Result<(), VmError> {
        let memory = self.window(true).map_err(VmError::io(FILLING))?;
        let zeros = batches(&file.spans(true), SEGMENT_PAGES);
        let zeroed = || vec![0; SEGMENT];
        crew::each(zeros, SEGMENTS_WORTH, zeroed, |zeros, batch| {
            memory.write(&batch, zeros).map_err(VmError::io(FILLING))
        })?;
        let stored = (0..).zip(batches(&file.spans(false), SEGMENT_PAGES)).collect();
        crew::each(stored, SEGMENTS_WORTH, Vec::new, |buffer, (index, batch): (u64, Vec<Span>)| {
            let data = file.segment(index, buffer)?;
            memory.write(&batch, data).map_err(VmError::io(FILLING))
        })
    }

    fn pages(&self) -> u64 {
        self.ram.bytes() / PAGE as u64
    }

    fn changed(&self) -> Result<Vec<Span>, VmError> {
        match self.access {
            Access::Shared => self.ram.touched().map_err(VmError::io(READING)),
            Access::Private { pid, start } => scan::written(pid, start, self.pages()),
        }
    }

    fn window(&self, write: bool) -> io::Result<Window> {
        match self.access {
            Access::Shared => {
                Ok(Window { file: self.ram.as_fd().try_clone_to_owned()?.into(), start: 0 })
            }
            Access::Private { pid, start } => {
                let path = format!("/proc/{pid}/mem");
                let file = fs_err::OpenOptions::new().read(true).write(write).open(path)?.into();
                Ok(Window { file, start })
            }
        }
    }
}

impl Window {
    /// Fills the beginning of `buffer` with the content of `spans`.
    fn read(&self, spans: &[Span], mut buffer: &mut [u8]) -> io::Result<()> {
        for span in spans {
            let (part, rest) = buffer.split_at_mut(span.bytes());
            self.file.read_exact_at(part, self.start + span.at())?;
            buffer = rest;
        }
        Ok(())
    }

    /// Makes the beginning of `data` the content of `spans`.
    fn write(&self, spans: &[Span], mut data: &[u8]) -> io::Result<()> {
        for span in spans {
            let (part, rest) = data.split_at(span.bytes());
            self.file.write_all_at(part, self.start + span.at())?;
            data = rest;
        }
        Ok(())
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

#[cfg(test)]
mod tests;
