//! Which pages of a private mapping have been written.
//!
//! In a private mapping of a file a page that was written is anonymous, and one that was only read
//! belongs to the file. The kernel tells the two apart in `/proc/PID/pagemap`: since Linux 6.7 it
//! lists the runs itself (`PAGEMAP_SCAN`), before that it gives a word for every page (bit 61 clear,
//! bit 63 or 62 set: present or swapped). See Documentation/admin-guide/mm/pagemap.rst of the kernel.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::io::Errno;

use super::{PAGE, crew, spans::Span};
use crate::VmError;

/// How many pages are looked at in one go: 256 MiB.
const PART: u64 = 64 << 10;
/// Page map entries read at a time.
const ENTRIES: u64 = 8 << 10;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_BACKED: u64 = 1 << 61;

/// The pages that were written of the `pages` that process `pid` has mapped at `start`, ascending.
pub(super) fn written(pid: i32, start: u64, pages: u64) -> Result<Vec<Span>, VmError> {
    let reading = "read the monitor's page map";
    let pagemap: File = fs_err::File::open(format!("/proc/{pid}/pagemap"))
        .map_err(VmError::io("open the monitor's page map"))?
        .into();
    let firsts = (0..pages).step_by(usize::try_from(PART).unwrap_or(usize::MAX));
    let mut found: Vec<(u64, Vec<Span>)> = firsts.map(|first| (first, Vec::new())).collect();
    crew::each(found.iter_mut().collect(), 2, Vec::new, |regions, (first, spans)| {
        let part = Span { first: *first, pages: PART.min(pages - *first) };
        *spans = match ask(&pagemap, start, part, regions) {
            Err(Errno::NOTTY | Errno::INVAL) => read(&pagemap, start, part),
            asked => asked.map_err(io::Error::from),
        }
        .map_err(VmError::io(reading))?;
        Ok(())
    })?;
    Ok(found.into_iter().flat_map(|(_, spans)| spans).collect())
}

/// Lets the kernel find them.
fn ask(
    pagemap: &File,
    start: u64,
    part: Span,
    regions: &mut Vec<ioctl::Region>,
) -> rustix::io::Result<Vec<Span>> {
    let end = start + part.at() + part.bytes() as u64;
    let mut at = start + part.at();
    let mut spans = Vec::new();
    while at < end {
        let (filled, reached) = ioctl::written(pagemap, at, end, regions)?;
        spans.extend(filled.iter().map(|region| Span {
            first: (region.start - start) / PAGE as u64,
            pages: (region.end - region.start) / PAGE as u64,
        }));
        // The kernel says how far it has come only if it ran out of room; otherwise that may be
        // anywhere before the end.
        match filled.last() {
            Some(last) if filled.len() == ioctl::REGIONS => at = reached.max(last.end),
            _ => break,
        }
    }
    Ok(spans)
}

/// Looks at every page.
fn read(pagemap: &File, start: u64, part: Span) -> io::Result<Vec<Span>> {
    let mut entries = vec![0u8; usize::try_from(ENTRIES).unwrap_or(0) * 8];
    let mut spans: Vec<Span> = Vec::new();
    let end = part.first + part.pages;
    let mut page = part.first;
    while page < end {
        let count = (end - page).min(ENTRIES);
        let read = &mut entries[..usize::try_from(count).unwrap_or(0) * 8];
        pagemap.read_exact_at(read, (start / PAGE as u64 + page) * 8)?;
        for (index, entry) in (page..).zip(read.chunks_exact(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
            if entry & (PRESENT | SWAPPED) == 0 || entry & FILE_BACKED != 0 {
                continue;
            }
            match spans.last_mut() {
                Some(span) if span.first + span.pages == index => span.pages += 1,
                _ => spans.push(Span { first: index, pages: 1 }),
            }
        }
        page += count;
    }
    Ok(spans)
}

/// `PAGEMAP_SCAN`, see `linux/fs.h`.
mod ioctl {
    use std::{ffi::c_void, fs::File};

    use rustix::{
        io,
        ioctl::{Ioctl, IoctlOutput, Opcode, opcode},
    };

    const IS_FILE: u64 = 1 << 2;
    const IS_PRESENT: u64 = 1 << 3;
    const IS_SWAPPED: u64 = 1 << 4;

    /// Regions asked for at a time.
    pub(super) const REGIONS: usize = 4096;

    /// `struct page_region`.
    #[derive(Debug, Clone, Copy, Default)]
    #[repr(C)]
    pub(super) struct Region {
        pub start: u64,
        pub end: u64,
        categories: u64,
    }

    /// `struct pm_scan_arg`.
    #[derive(Debug)]
    #[repr(C)]
    struct Argument {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walk_end: u64,
        vec: u64,
        vec_len: u64,
        max_pages: u64,
        category_inverted: u64,
        category_mask: u64,
        category_anyof_mask: u64,
        return_mask: u64,
    }

    struct Scan<'a> {
        argument: Argument,
        /// What `argument.vec` points to.
        _regions: &'a mut [Region],
    }

    /// The first [`REGIONS`] runs of anonymous pages from address `start` on, and up to where they
    /// were looked for. `regions`
    /// is where they are put, whatever it has held.
    #[expect(unsafe_code, reason = "there is no other way to make this request")]
    pub(super) fn written<'a>(
        pagemap: &File,
        start: u64,
        end: u64,
        regions: &'a mut Vec<Region>,
    ) -> io::Result<(&'a [Region], u64)> {
        regions.resize(REGIONS, Region::default());
        let argument = Argument {
            size: size_of::<Argument>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: REGIONS as u64,
            max_pages: 0,
            category_inverted: IS_FILE,
            category_mask: IS_FILE,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            return_mask: IS_FILE,
        };
        let scan = Scan { argument, _regions: regions };
        // SAFETY: the request reads and writes one `pm_scan_arg`, which `Argument` is, and at most
        // `vec_len` regions at `vec`, which are borrowed for as long as `scan` lives.
        let (count, walk_end) = unsafe { rustix::ioctl::ioctl(pagemap, scan) }?;
        Ok((regions.get(..count).ok_or(io::Errno::OVERFLOW)?, walk_end))
    }

    // SAFETY: opcode and argument are those of `PAGEMAP_SCAN`; the output is the number of regions
    // that were written, and the argument's own `walk_end`.
    #[expect(unsafe_code, reason = "see `written`")]
    unsafe impl Ioctl for Scan<'_> {
        type Output = (usize, u64);
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            opcode::read_write::<Argument>(b'f', 16)
        }

        fn as_ptr(&mut self) -> *mut c_void {
            (&raw mut self.argument).cast()
        }

        unsafe fn output_from_ptr(
            out: IoctlOutput,
            argument: *mut c_void,
        ) -> io::Result<Self::Output> {
            // SAFETY: this is the pointer that `as_ptr` has given.
            let argument = unsafe { &*argument.cast::<Argument>() };
            Ok((usize::try_from(out).unwrap_or(0), argument.walk_end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_and_we_find_the_same() {
        let pid = std::process::id();
        let pagemap = File::from(fs_err::File::open(format!("/proc/{pid}/pagemap")).unwrap());
        // Less than the kernel keeps before it hands it out, as much as we ask for, and more.
        for regions in [500, 600, ioctl::REGIONS, 10_000] {
            let pages = 2 * regions as u64;
            let mut data = vec![0u8; usize::try_from(pages + 1).unwrap() * PAGE];
            data.iter_mut().step_by(2 * PAGE).for_each(|byte| *byte = 1);
            let start = (data.as_ptr().expose_provenance() as u64).next_multiple_of(PAGE as u64);
            let part = Span { first: 0, pages };
            let found = read(&pagemap, start, part).unwrap();
            assert_eq!(found.len(), regions);
            match ask(&pagemap, start, part, &mut Vec::new()) {
                // An older kernel.
                Err(error) => assert_eq!(error, Errno::NOTTY),
                Ok(asked) => {
                    assert!(asked == found, "{} are {} to the kernel", regions, asked.len());
                }
            }
            drop(data);
        }
    }
}
