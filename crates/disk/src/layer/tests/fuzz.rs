//! Arbitrary bytes as layers. What is asserted: nothing panics, hangs or touches anything but the
//! store; what is taken can be exported, and is the same when it is added again.
//!
//! ```text
//! BHATTI_FUZZ_SECONDS=600 cargo test --release -p disk fuzz
//! BHATTI_FUZZ_SECONDS=600 BHATTI_FUZZ_SEED=1000000000 cargo test …
//! ```
//!
//! Cases are numbered from the seed on. A failure prints the number of its case.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};

use super::{
    Tarball,
    hostile::{House, sample},
    tarball::Raw,
};
use crate::layer;

/// Seconds if nothing is said.
const SECONDS: u64 = 3;

/// Random numbers that a seed decides (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const NAMES: [&str; 9] = ["a", "b", "a/b", "b/a", "./", "/", ".wh.a", "a/.wh.b", "a/.wh..wh..opq"];

const BAD_NAMES: [&str; 6] = ["..", "a/../b", ".wh..", "a//b/", ".wh..wh.x", ".wh.a/b"];

const KEYS: [&str; 7] =
    ["path", "linkpath", "size", "mtime", "uid", "SCHILY.xattr.user.a", "GNU.sparse.name"];

fn entry(tar: Tarball, rng: &mut Rng) -> Tarball {
    let kinds = b"00103455670\x00gVLKx2S\xff";
    let most = if rng.below(20) == 0 { kinds.len() } else { 14 };
    let kind = kinds[rng.below(most)];
    let content = rng.bytes(3000);
    let name = if rng.below(30) == 0 { rng.pick(&BAD_NAMES) } else { rng.pick(&NAMES) };
    match rng.below(60) {
        0 => tar.pax(&[(rng.pick(&KEYS), rng.pick(&NAMES).as_bytes())]),
        1 => tar.pax(&[(rng.pick(&KEYS), &rng.bytes(20))]),
        2 => tar.raw(&rng.bytes(600)),
        3 => {
            let at = rng.below(500);
            let field = rng.bytes(12);
            tar.header(Raw::new(kind, name.as_bytes(), 0).set(at, &field), b"")
        }
        4..14 => {
            let target = rng.pick(&NAMES).as_bytes();
            tar.header(Raw::new(b'1' + (kind & 1), name.as_bytes(), 0).set(157, target), b"")
        }
        _ => tar.entry(kind, name, &content),
    }
}

fn archive(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = match rng.below(10) {
        0 => rng.bytes(3000),
        1 | 2 => sample(),
        _ => (0..rng.below(12)).fold(Tarball::default(), |tar, _| entry(tar, rng)).end(),
    };
    for _ in 0..rng.below(5).saturating_sub(2) {
        let at = rng.below(bytes.len().max(1)).min(bytes.len());
        match rng.below(4) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, rng.bytes(700))),
            2 => drop(bytes.drain(at..(at + 512).min(bytes.len()))),
            _ => bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte ^= 1 << rng.below(8)),
        }
    }
    if rng.below(4) > 0 {
        return bytes;
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let mut packed = gzip.finish().unwrap();
    if rng.below(3) == 0 {
        let at = rng.below(packed.len());
        packed[at] ^= 1 << rng.below(8);
    }
    packed
}

#[test]
fn arbitrary_bytes_never_panic() {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(variable("BHATTI_FUZZ_SECONDS").unwrap_or(SECONDS));
    let first = variable("BHATTI_FUZZ_SEED").unwrap_or(0);
    let start = Instant::now();
    let (mut seed, mut taken) = (first, 0);
    while seed == first || start.elapsed() < time {
        let named = Named(seed);
        taken += u64::from(check(&mut Rng(seed)));
        drop(named);
        seed += 1;
    }
    eprintln!("{} cases, {taken} of them layers", seed - first);
    assert!(taken > 0 || seed - first < 50);
}

/// Whether it was a layer.
fn check(rng: &mut Rng) -> bool {
    let house = House::new();
    let archive = archive(rng);
    let Ok(id) = house.add(&archive) else { return false };
    let mut exported = Vec::new();
    layer::export(&house.data(), &id, &mut exported).unwrap();
    let again = House::new();
    let second = again.add(&exported).unwrap();
    let entries =
        |house: &House, id| layer::Layer::open(&house.data(), id).unwrap().entries().unwrap();
    assert_eq!(entries(&house, &id), entries(&again, &second));
    let _ = house.image(&archive);
    true
}

/// Names the case that failed.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see this again: BHATTI_FUZZ_SEED={}", self.0);
        }
    }
}
