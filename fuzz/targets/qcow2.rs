//! Bytes as the header of a disk's layer: what is accepted names no other file.

#![no_main]

use std::{cell::RefCell, fs::File, os::unix::fs::FileExt};

use libfuzzer_sys::fuzz_target;

thread_local! {
    static FILE: RefCell<File> =
        RefCell::new(tempfile::tempfile_in("/dev/shm").expect("a file in memory"));
}

fuzz_target!(|bytes: &[u8]| {
    FILE.with_borrow(|file| {
        file.set_len(0).expect("room");
        file.write_all_at(bytes, 0).expect("room");
        let Ok(info) = disk::qcow2::validate_header(file) else { return };
        assert_eq!(&bytes[..8], b"QFI\xfb\0\0\0\x03");
        assert_eq!(&bytes[16..20], &[0; 4], "it names a backing file");
        assert_eq!(&bytes[32..36], &[0; 4], "it is encrypted");
        // The lowest bit says that it was not closed well, which harms nobody.
        let incompatible: [u8; 8] = bytes[72..80].try_into().expect("eight bytes");
        assert_eq!(u64::from_be_bytes(incompatible) & !1, 0, "it uses what we do not");
        assert!((9..=21).contains(&info.cluster_bits) && info.virtual_size > 0);
    });
});
