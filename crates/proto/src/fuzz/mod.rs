//! Hostile bytes for everything that parses bytes of the wire.
//!
//! ```text
//! seed ─► corpus item ─► mutations ─► chunks ─► decoder, scanner, hail, messages   (below)
//!                                          └──► a whole session                    (mux.rs)
//! ```
//!
//! What is asserted: nothing panics or hangs; what is decoded does not depend on how the bytes are
//! cut; encoding it again gives the same bytes; an error is final; memory stays within one frame
//! and what was just given.
//!
//! Each test takes a few seconds. To look longer, or somewhere else:
//!
//! ```text
//! BHATTI_FUZZ_SECONDS=600 cargo test --release -p proto --features mux fuzz
//! BHATTI_FUZZ_SECONDS=600 BHATTI_FUZZ_SEED=1000000000 cargo test …
//! ```
//!
//! Cases are numbered from the seed on. A failure prints the number of its case; with that as
//! `BHATTI_FUZZ_SEED` it is the first one of the next run.

mod corpus;
#[cfg(feature = "mux")]
mod mux;

use std::time::{Duration, Instant};

use self::corpus::{Rng, chunks, mutated};
use crate::{
    frame::{DATA_CHUNK, Decoder, FRAME_HEADER, FRAME_MAX, Frame, FrameError, FrameKind},
    message::{AttachControl, Request, Response},
    preamble::{Hail, PREAMBLE_LEN, Preamble, Scanner},
};

/// Seconds for each of the tests if nothing is said.
const SECONDS: u64 = 3;
/// The largest chunk that bytes are cut into.
const CHUNK_MAX: usize = 32 * 1024;

/// Does `check` with one seed after the other until the time is up.
fn cases(mut check: impl FnMut(&mut Rng)) {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(variable("BHATTI_FUZZ_SECONDS").unwrap_or(SECONDS));
    let first = variable("BHATTI_FUZZ_SEED").unwrap_or(0);
    let start = Instant::now();
    let mut seed = first;
    while seed == first || start.elapsed() < time {
        let named = Named(seed);
        check(&mut Rng::new(seed));
        drop(named);
        seed += 1;
    }
    eprintln!("{} cases", seed - first);
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

/// All frames of `pieces`, and why there are no more.
fn decoded<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FrameError>, bool) {
    let mut decoder = Decoder::new();
    let (mut frames, mut broken, mut largest) = (Vec::new(), None, 0);
    for piece in pieces {
        decoder.push(piece);
        largest = largest.max(piece.len());
        let most = FRAME_HEADER + FRAME_MAX + DATA_CHUNK + largest;
        assert!(decoder.capacity() <= most, "{} bytes are held", decoder.capacity());
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    assert!(broken.is_none(), "a frame came after {broken:?}");
                    assert!(frame.payload.capacity() <= FRAME_MAX);
                    frames.push(frame);
                }
                Ok(None) => {
                    assert!(broken.is_none(), "{broken:?} was forgotten");
                    break;
                }
                Err(error) => {
                    assert!(broken.is_none_or(|first| first == error), "{broken:?}, {error:?}");
                    assert_eq!(decoder.capacity(), 0, "bytes are kept that nobody will get");
                    broken = Some(error);
                    break;
                }
            }
        }
    }
    (frames, broken, decoder.is_at_boundary())
}

fn check_decoder(bytes: &[u8], rng: &mut Rng) {
    let whole = decoded(std::iter::once(bytes));
    let cut = decoded(chunks(bytes, rng, CHUNK_MAX).into_iter());
    assert!(whole == cut, "cutting makes a difference");
    let (frames, broken, at_boundary) = whole;
    let mut again = Vec::new();
    for frame in &frames {
        frame.encode(&mut again).unwrap();
    }
    let rest = bytes.strip_prefix(again.as_slice()).expect("what was decoded encodes to the same");
    assert_eq!(at_boundary, rest.is_empty() && broken.is_none());
    if broken.is_none() {
        assert!(rest.len() < FRAME_HEADER + FRAME_MAX, "a whole frame was left");
    }
    for frame in frames.iter().filter(|frame| frame.kind == FrameKind::Json) {
        check_messages(&frame.payload);
    }
}

/// What parses is understood the same when it is said again.
fn check_messages(json: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(json) {
        let said = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&said).unwrap(), request);
    }
    if let Ok(response) = serde_json::from_slice::<Response>(json) {
        let said = serde_json::to_vec(&response).unwrap();
        assert_eq!(serde_json::from_slice::<Response>(&said).unwrap(), response);
    }
    if let Ok(control) = serde_json::from_slice::<AttachControl>(json) {
        let said = serde_json::to_vec(&control).unwrap();
        assert_eq!(serde_json::from_slice::<AttachControl>(&said).unwrap(), control);
    }
}

/// The first preamble, and what follows it.
fn scanned<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<(Preamble, Vec<u8>)> {
    let mut scanner = Scanner::new();
    let mut pieces = pieces.into_iter();
    while let Some(piece) = pieces.next() {
        // No item of the corpus is long enough to be given up on.
        let found = scanner.push(piece).unwrap();
        let most = 2 * (PREAMBLE_LEN + piece.len().max(CHUNK_MAX));
        assert!(scanner.capacity() <= most, "{} bytes are held", scanner.capacity());
        if let Some(preamble) = found {
            let mut rest = scanner.into_rest();
            pieces.for_each(|piece| rest.extend_from_slice(piece));
            return Some((preamble, rest));
        }
    }
    None
}

fn check_scanner(bytes: &[u8], rng: &mut Rng) {
    let whole = scanned(std::iter::once(bytes));
    let cut = scanned(chunks(bytes, rng, CHUNK_MAX).into_iter());
    assert!(whole == cut, "cutting makes a difference");
    if let Some((preamble, rest)) = whole {
        assert!(bytes.ends_with(&[&preamble.encode()[..], &rest].concat()));
    }
    let heard = |pieces: Vec<&[u8]>| {
        let mut hail = Hail::default();
        pieces.into_iter().filter(|piece| hail.is_heard(piece)).count() > 0
    };
    assert_eq!(heard(vec![bytes]), heard(chunks(bytes, rng, CHUNK_MAX)));
}

#[test]
fn fuzz_frames_and_messages() {
    cases(|rng| {
        let item = corpus::frames(rng);
        let bytes = mutated(item, rng, corpus::frames);
        check_decoder(&bytes, rng);
    });
}

#[test]
fn fuzz_message_text() {
    cases(|rng| {
        let item = corpus::message(rng);
        check_messages(&item);
        let json = mutated(item, rng, corpus::message);
        check_messages(&json);
    });
}

#[test]
fn fuzz_preambles() {
    cases(|rng| {
        let item = corpus::greeting(rng);
        let bytes = mutated(item, rng, corpus::greeting);
        check_scanner(&bytes, rng);
    });
}

/// A frame that is announced takes no room before it comes, and one that came leaves none behind.
#[test]
fn memory_follows_what_came() {
    let announced = [&0x0010_0001_u32.to_be_bytes()[..], &[5]].concat();
    let mut decoder = Decoder::new();
    decoder.push(&announced);
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.capacity() < 100, "{}", decoder.capacity());
    for piece in vec![0; FRAME_MAX].chunks(4096) {
        decoder.push(piece);
        assert!(decoder.capacity() <= FRAME_HEADER + FRAME_MAX + DATA_CHUNK);
    }
    assert_eq!(decoder.next().unwrap().unwrap().payload.len(), FRAME_MAX);
    assert_eq!(decoder.capacity(), 0);
}
