//! Bytes as what one side of the wire hears from the other: preamble, frames, messages. Nothing depends on how
//! they are cut, what was decoded encodes to the same, and what was understood is when it is said again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::{
    frame::{Decoder, Frame, FrameKind},
    message::{AttachControl, Request, Response},
    preamble::{Hail, Scanner},
};

/// All frames, and whether there could be more.
fn decoded<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

fn same<T>(json: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    if let Ok(value) = serde_json::from_slice::<T>(json) {
        let said = serde_json::to_vec(&value).expect("a message can be said");
        assert_eq!(serde_json::from_slice::<T>(&said).ok(), Some(value));
    }
}

fn messages(json: &[u8]) {
    same::<Request>(json);
    same::<Response>(json);
    same::<AttachControl>(json);
}

fuzz_target!(|bytes: &[u8]| {
    let (whole, more) = decoded(std::iter::once(bytes));
    let cut = decoded(bytes.chunks(7));
    assert!(whole == cut.0 && more == cut.1, "cutting makes a difference");
    let mut again = Vec::new();
    for frame in &whole {
        frame.encode(&mut again).expect("what was decoded can be encoded");
    }
    assert!(bytes.starts_with(&again), "it is not the same");
    for frame in whole.iter().filter(|frame| frame.kind == FrameKind::Json) {
        messages(&frame.payload);
    }
    messages(bytes);
    let _ = Scanner::new().push(bytes);
    let _ = Hail::default().is_heard(bytes);
});
