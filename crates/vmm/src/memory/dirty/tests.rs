//! The guests are mappings of this process.

use std::{fs::File, os::unix::fs::FileExt as _, ptr::null_mut};

use proptest::prelude::*;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::*;

const MIB: u64 = 48;
const PAGES: u64 = (MIB << 20) / PAGE as u64;
const TAG: [u8; 32] = [4; 32];

/// A template's memory, mapped as a child does.
struct Guest {
    ram: Ram,
    start: u64,
    memory: File,
}

impl Guest {
    #[expect(unsafe_code, reason = "the test is about a mapping")]
    fn new() -> Self {
        let ram = Ram::fresh(MIB).unwrap();
        let file = File::from(ram.as_fd().try_clone_to_owned().unwrap());
        for page in (0..PAGES).step_by(3) {
            file.write_all_at(&[0xaa; PAGE], page * PAGE as u64).unwrap();
        }
        let ram = ram.seal().unwrap();
        let (length, flags) = (usize::try_from(MIB << 20).unwrap(), MapFlags::PRIVATE);
        // SAFETY: a new mapping that nothing refers to, and that is never dereferenced.
        let start = unsafe {
            mmap(null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags, &file, 0).unwrap()
        };
        let memory = fs_err::OpenOptions::new().read(true).write(true).open("/proc/self/mem");
        let (start, memory) = (start.expose_provenance() as u64, memory.unwrap().into());
        Self { ram, start, memory }
    }

    fn memory(&self) -> GuestMemory {
        GuestMemory::of(i32::try_from(std::process::id()).unwrap(), self.ram.clone()).unwrap()
    }

    fn write(&self, first: u64, pages: u64, byte: u8) {
        let data = vec![byte; spans::bytes(pages)];
        self.memory.write_all_at(&data, self.start + first * PAGE as u64).unwrap();
    }

    /// All of it, which is read, too, then.
    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; spans::bytes(PAGES)];
        self.memory.read_exact_at(&mut content, self.start).unwrap();
        content
    }
}

impl Drop for Guest {
    #[expect(unsafe_code, reason = "see `new`")]
    fn drop(&mut self) {
        let start = std::ptr::with_exposed_provenance_mut(usize::try_from(self.start).unwrap());
        // SAFETY: the mapping is ours, and nothing refers to it.
        unsafe { munmap(start, usize::try_from(MIB << 20).unwrap()).unwrap() }
    }
}

fn writes() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    let pages = prop_oneof![9 => 1..40u64, 1 => 1000..PAGES / 2];
    prop::collection::vec((0..PAGES, pages, 0u8..4), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_written_and_nothing_else_is_found_and_comes_back(
        writes in writes(), reads in any::<bool>(), room in any::<bool>(),
    ) {
        let (guest, directory) = (Guest::new(), tempfile::tempdir().unwrap());
        if reads {
            guest.content();
        }
        let memory = guest.memory();
        let mut expected = std::collections::BTreeSet::new();
        for (index, (first, pages, byte)) in writes.iter().enumerate() {
            let pages = (*pages).min(PAGES - first);
            guest.write(*first, pages, *byte);
            expected.extend(*first..first + pages);
            if room && index == writes.len() / 2 {
                memory.make_room().unwrap();
            }
        }
        let capture = memory.capture().unwrap();
        let found = |spans: &[Span]| -> std::collections::BTreeSet<u64> {
            spans.iter().flat_map(|span| span.first..span.first + span.pages).collect()
        };
        prop_assert_eq!(&found(&capture.spans), &expected);
        prop_assert_eq!(capture.bytes(), (expected.len() * PAGE) as u64);
        let (saved, copied) = (directory.path().join("saved"), directory.path().join("copied"));
        let stats = memory.save(&TAG, &saved).unwrap();
        prop_assert_eq!(capture.save(&TAG, &copied).unwrap(), stats);
        prop_assert!(fs_err::read(&saved).unwrap() == fs_err::read(&copied).unwrap());

        let (placed, restored) = (Guest::new(), Guest::new());
        placed.memory().place(&capture).unwrap();
        let file = PageFile::open(&copied, &TAG, PAGES).unwrap();
        file.verify().unwrap();
        restored.memory().restore(&file).unwrap();
        let content = guest.content();
        prop_assert!(placed.content() == content);
        prop_assert!(restored.content() == content);
    }
}

#[test]
fn a_capture_fits_only_a_guest_of_its_size() {
    let capture = Guest::new().memory().capture().unwrap();
    let other = GuestMemory::of(0, Ram::fresh(MIB + 1).unwrap()).unwrap();
    assert!(other.place(&capture).is_err());
}

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
