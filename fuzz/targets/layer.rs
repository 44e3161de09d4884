//! Bytes as the layer of an image: nothing but the store changes, what is refused leaves nothing, and what is
//! taken can be written again and is the same then.

#![no_main]

use disk::{
    image::{self, Config},
    layer,
};
use fuzz::{House, LIMITS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let house = House::new();
    let added = layer::add(&house.data(), &mut &*bytes, None, &LIMITS);
    house.check();
    let Ok(id) = added else { return };
    let mut written = Vec::new();
    layer::export(&house.data(), &id, &mut written).expect("what is stored can be written");
    let other = House::new();
    // An archive may say less than what it is written as, in blocks of 512 bytes.
    let limits = layer::Limits { bytes: LIMITS.bytes * 8, ..LIMITS };
    let again = layer::add(&other.data(), &mut &*written, None, &limits);
    let again = again.expect("what was written can be read");
    let mut twice = Vec::new();
    layer::export(&other.data(), &again, &mut twice).expect("what is stored can be written");
    assert!(written == twice, "it is another layer when it is read again");
    // Its entries may not fit together; then it says so.
    let made = image::assemble(&house.data(), &[id], Config::default(), String::new());
    house.check();
    if let Ok(made) = made {
        image::verify(&made).expect("what is made is whole");
    }
});
