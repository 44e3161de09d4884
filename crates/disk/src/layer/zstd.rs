//! Zstandard streams of many frames, some of which are to be skipped.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The largest window that zstd's own tools make without being told to, in bytes. So much memory
/// a hostile frame can ask for.
const WINDOW_MAX: u64 = 128 << 20;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of a frame that is to be skipped, but for the lowest four bits.
const SKIPPED: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// Whether a stream that begins like this is one.
pub(super) fn is_start(first: &[u8]) -> bool {
    first.starts_with(&MAGIC)
        || first.len() >= 4 && first[0] & 0xf0 == SKIPPED[0] && first[1..4] == SKIPPED[1..]
}

/// Unpacks all frames of `source`, one after the other.
pub(super) struct Zstd<S> {
    source: S,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<S: BufRead> Zstd<S> {
    pub(super) fn new(source: S) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Self { source, decoder, in_frame: false }
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// Reads the header of the next frame; `false` at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(damaged(&error)),
            }
        }
    }

    fn check_sum(&self) -> io::Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(told), Some(found)) if told != found => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a frame's checksum is wrong"))
            }
            _ => Ok(()),
        }
    }
}

impl<S: BufRead> Read for Zstd<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.check_sum()?;
                self.in_frame = false;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|error| damaged(&error))?;
        }
    }
}

/// The decoder does not say in one place that the stream ended in the middle.
fn damaged(error: &FrameDecoderError) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::UnexpectedEof
        {
            return io::ErrorKind::UnexpectedEof.into();
        }
        cause = error.source();
    }
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
