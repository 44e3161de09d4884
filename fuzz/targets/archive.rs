//! Bytes as an archive of images, in any of the forms that can be imported: nothing but the store changes, and
//! an image of it can be exported and imported again.

#![no_main]

use std::io::Cursor;

use disk::{archive, image};
use fuzz::{House, LIMITS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let house = House::new();
    let imported = archive::import(&house.data(), &mut Cursor::new(bytes), None, &LIMITS, &|_| ());
    house.check();
    let Ok(imported) = imported else { return };
    let made = image::assemble(&house.data(), &imported.layers, imported.config, String::new());
    house.check();
    let Ok(made) = made else { return };
    let mut written = Vec::new();
    archive::export(&house.data(), &made, "fuzz:latest", &mut written)
        .expect("an image of layers can be exported");
    let other = House::new();
    let limits = disk::layer::Limits { bytes: LIMITS.bytes * 8, ..LIMITS };
    let again = archive::import(&other.data(), &mut Cursor::new(written), None, &limits, &|_| ());
    let again = again.expect("what was exported can be imported");
    assert_eq!(again.layers.len(), made.layers().len());
    assert_eq!(again.config, *made.config());
});
