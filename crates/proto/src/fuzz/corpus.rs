//! Where the bytes come from: things that are nearly right, and ways to make them wrong.

use crate::{
    frame::{FRAME_MAX, Frame, FrameKind},
    preamble::{HAIL, Preamble, VERSION},
};

/// Every message that there is.
const MESSAGES: &str = include_str!("../../tests/golden/messages.txt");

/// Numbers that lengths and counters may go wrong at.
const ODD: [u32; 14] = [
    0,
    1,
    4,
    5,
    6,
    0xff,
    0xffff,
    0x0001_0000,
    0x0004_0000,
    0x0010_0000,
    0x0010_0001,
    0x0010_0002,
    0x7fff_ffff,
    0xffff_ffff,
];

/// Random numbers that a seed decides (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.byte()).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Cuts bytes into pieces, most of them small.
pub(super) fn chunks<'a>(bytes: &'a [u8], rng: &mut Rng, most: usize) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    // Byte by byte is only interesting where there are few.
    let scale = rng.pick(&[16, 300, 5000, most]).max(bytes.len() / 500).min(most);
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((1 + rng.below(scale)).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces
}

/// The JSON of a message.
pub(super) fn message(rng: &mut Rng) -> Vec<u8> {
    let lines: Vec<&str> = MESSAGES.lines().filter(|line| line.contains('{')).collect();
    let line = rng.pick(&lines);
    line.as_bytes()[line.find('{').unwrap_or(0)..].to_vec()
}

fn frame(rng: &mut Rng) -> Frame {
    let kinds =
        [FrameKind::Stdin, FrameKind::Stdout, FrameKind::Stderr, FrameKind::Data, FrameKind::Json];
    match rng.below(10) {
        0..5 => Frame::new(FrameKind::Json, message(rng)),
        5 => Frame::new(rng.pick(&kinds), []),
        6 if rng.one_in(30) => {
            let length = FRAME_MAX - rng.below(3);
            Frame::new(FrameKind::Data, vec![rng.byte(); length])
        }
        7 => {
            let length = 60_000 + rng.below(10_000);
            Frame::new(FrameKind::Data, vec![rng.byte(); length])
        }
        _ => {
            let kind = rng.pick(&kinds);
            Frame::new(kind, rng.bytes(300))
        }
    }
}

/// Some frames, one after the other.
pub(super) fn frames(rng: &mut Rng) -> Vec<u8> {
    let mut wire = Vec::new();
    for _ in 0..=rng.below(5) {
        frame(rng).encode(&mut wire).unwrap();
    }
    wire
}

/// What may come before, around and after a preamble.
pub(super) fn greeting(rng: &mut Rng) -> Vec<u8> {
    let mut wire = Vec::new();
    for _ in 0..=rng.below(6) {
        let nonce = std::array::from_fn(|_| rng.byte());
        let version = if rng.one_in(4) { rng.pick(&[0, 2, u16::MAX]) } else { VERSION };
        let preamble = Preamble { version, nonce }.encode();
        match rng.below(6) {
            0 | 1 => wire.extend_from_slice(&preamble),
            2 => wire.extend_from_slice(&preamble[..rng.below(preamble.len())]),
            3 => wire.extend_from_slice(&HAIL[..=rng.below(HAIL.len())]),
            4 => wire.extend(rng.bytes(200)),
            _ => wire.extend_from_slice(&preamble[rng.below(preamble.len())..]),
        }
    }
    wire
}

/// A few changes to `bytes`, or none; `other` makes something to splice in.
pub(super) fn mutated(
    mut bytes: Vec<u8>,
    rng: &mut Rng,
    other: impl Fn(&mut Rng) -> Vec<u8>,
) -> Vec<u8> {
    for _ in 0..rng.below(5) {
        if bytes.is_empty() {
            return rng.bytes(100);
        }
        let at = rng.below(bytes.len());
        match rng.below(8) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes[at] = rng.byte(),
            3 => {
                let more = other(rng);
                let from = rng.below(more.len().max(1)).min(more.len());
                bytes.splice(at..at, more[from..].iter().copied());
            }
            4 => {
                let end = (at + rng.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + rng.below(64)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                // Lengths are four bytes wherever they are; the first one is at the start.
                let at = if rng.one_in(2) { 0 } else { at };
                let number = rng.pick(&ODD).to_be_bytes();
                for (byte, new) in bytes[at..].iter_mut().zip(number) {
                    *byte = new;
                }
            }
            _ => bytes.extend(rng.bytes(40)),
        }
    }
    bytes
}
