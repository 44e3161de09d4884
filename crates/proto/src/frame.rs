//! One frame: `u32` big-endian length (kind and payload), `u8` kind, payload.

use thiserror::Error;

/// Most bytes that the payload of one frame may have.
pub const FRAME_MAX: usize = 1024 * 1024;

/// Bytes that a sender puts into one data frame.
pub const DATA_CHUNK: usize = 64 * 1024;

/// Bytes before the payload: length and kind.
pub const FRAME_HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A request or response as JSON.
    Json = 1,
    /// Bytes for a command's input; none close it.
    Stdin = 2,
    /// Bytes of a command's standard output.
    Stdout = 3,
    /// Bytes of a command's standard error.
    Stderr = 4,
    /// Bytes of a file; none end it.
    Data = 5,
}

impl TryFrom<u8> for FrameKind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            1 => Self::Json,
            2 => Self::Stdin,
            3 => Self::Stdout,
            4 => Self::Stderr,
            5 => Self::Data,
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

/// One unit on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// At most [`FRAME_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// Why bytes are not a frame, or a frame cannot become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A length of zero leaves no room for the kind.
    #[error("frame without a kind")]
    Empty,
    /// More than [`FRAME_MAX`] bytes of payload.
    #[error("frame of {0} bytes is larger than {FRAME_MAX}")]
    TooLarge(usize),
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
}

impl Frame {
    /// A frame of `kind` with `payload`.
    pub fn new(kind: FrameKind, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, payload: payload.into() }
    }

    /// Appends the frame's bytes to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]; then nothing was appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        encode(self.kind, &self.payload, out)
    }
}

/// Appends the bytes of a frame of `kind` around `payload` to `out`.
///
/// # Errors
/// [`FrameError::TooLarge`]; then nothing was appended.
pub fn encode(kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let header = header(kind, payload.len())?;
    out.reserve(FRAME_HEADER + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    Ok(())
}

/// The bytes before a payload of `length`.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub(crate) fn header(kind: FrameKind, length: usize) -> Result<[u8; FRAME_HEADER], FrameError> {
    let counted = u32::try_from(length + 1)
        .ok()
        .filter(|_| length <= FRAME_MAX)
        .ok_or(FrameError::TooLarge(length))?;
    let [a, b, c, d] = counted.to_be_bytes();
    Ok([a, b, c, d, kind as u8])
}

/// What a decoder's memory grows to on its own, in bytes: beyond that it takes only what it is given.
const BUFFER: usize = FRAME_HEADER + FRAME_MAX + DATA_CHUNK;

/// Cuts a byte stream into frames. Holds at most one incomplete frame, what was pushed last, and
/// [`DATA_CHUNK`] bytes of frames that were taken already.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    broken: Option<FrameError>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came; take all complete frames before the next ones. What comes after an
    /// error is dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > DATA_CHUNK {
            // Moving what is left only after a good stretch keeps the copying linear.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let needed = self.buffer.len() + bytes.len();
        if needed > self.buffer.capacity() {
            // Doubled as usual, but a large frame must not take twice its size.
            let room = (2 * self.buffer.capacity()).min(BUFFER).max(needed);
            self.buffer.reserve_exact(room - self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether the bytes so far end between two frames.
    pub fn is_at_boundary(&self) -> bool {
        self.broken.is_none() && self.start == self.buffer.len()
    }

    /// Takes the next complete frame, `None` if more bytes are needed.
    ///
    /// # Errors
    /// The stream is beyond repair; every later call answers the same.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not ask for more bytes")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.take().inspect_err(|error| {
            self.broken = Some(*error);
            self.buffer = Vec::new();
            self.start = 0;
        })
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.start..];
        let Some((header, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > FRAME_MAX + 1 {
            return Err(FrameError::TooLarge(length - 1));
        }
        let Some((&kind, _)) = rest.split_first() else { return Ok(None) };
        let kind = FrameKind::try_from(kind)?;
        let Some(payload) = rest.get(1..length) else { return Ok(None) };
        let frame = Frame::new(kind, payload);
        self.start += 4 + length;
        if self.start == self.buffer.len() && self.buffer.capacity() > 2 * DATA_CHUNK {
            // One large frame must not pin its memory for the rest of the stream.
            self.buffer = Vec::new();
            self.start = 0;
        }
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = (1_u8..=5).prop_map(|byte| FrameKind::try_from(byte).unwrap());
        (kind, proptest::collection::vec(any::<u8>(), 0..3000))
            .prop_map(|(kind, payload)| Frame { kind, payload })
    }

    proptest! {
        #[test]
        fn frames_survive_any_splitting(
            frames in proptest::collection::vec(any_frame(), 0..8),
            splits in proptest::collection::vec(1_usize..2000, 1..40),
        ) {
            let mut wire = Vec::new();
            for frame in &frames {
                frame.encode(&mut wire).unwrap();
            }
            let mut decoder = Decoder::new();
            let (mut got, mut rest) = (Vec::new(), wire.as_slice());
            for split in splits.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*split).min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(frame) = decoder.next().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(decoder.is_at_boundary());
        }

        #[test]
        fn arbitrary_bytes_never_panic(pieces in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..64), 0..16,
        )) {
            let mut decoder = Decoder::new();
            for piece in pieces {
                decoder.push(&piece);
                while let Ok(Some(frame)) = decoder.next() {
                    prop_assert!(frame.payload.len() <= FRAME_MAX);
                }
            }
        }
    }

    #[test]
    fn a_bad_header_is_refused_before_its_payload_comes() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new();
            decoder.push(bytes);
            decoder.next().unwrap_err()
        };
        assert_eq!(refused(&[0, 0, 0, 0]), FrameError::Empty);
        assert_eq!(refused(&[0, 0, 0, 9, 77]), FrameError::UnknownKind(77));
        assert_eq!(refused(&[0xff; 4]), FrameError::TooLarge(0xffff_fffe));
    }

    #[test]
    fn the_largest_frame_passes_and_a_larger_one_does_not() {
        let mut wire = Vec::new();
        Frame::new(FrameKind::Data, vec![7; FRAME_MAX]).encode(&mut wire).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&wire);
        assert_eq!(decoder.next().unwrap().unwrap().payload.len(), FRAME_MAX);
        let too_large = Frame::new(FrameKind::Data, vec![7; FRAME_MAX + 1]);
        assert_eq!(too_large.encode(&mut Vec::new()), Err(FrameError::TooLarge(FRAME_MAX + 1)));
    }
}
