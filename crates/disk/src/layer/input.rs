//! The bytes of a layer: unpacked, hashed, counted.

use std::io::{self, BufReader, Cursor, Read};

use base::hash;
use flate2::bufread::MultiGzDecoder;

use super::{
    LayerError, Limits,
    zstd::{self, Zstd},
};

/// How much is unpacked at once, in bytes.
const CHUNK: usize = 256 << 10;

/// So many bytes tell how a stream is compressed.
const MAGIC_MAX: usize = 6;

/// The uncompressed archive. Every byte of it is hashed as soon as it is unpacked.
pub(super) struct Input<'a> {
    source: Source<'a>,
    hasher: hash::Stream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// How many bytes were unpacked.
    unpacked: u64,
    limit: u64,
}

enum Source<'a> {
    Plain(Compressed<'a>),
    Gzip(Box<MultiGzDecoder<Compressed<'a>>>),
    Zstd(Box<Zstd<Compressed<'a>>>),
}

type Compressed<'a> = BufReader<Watched<'a>>;

impl<'a> Input<'a> {
    /// Tells from the first bytes how the layer is compressed.
    pub(super) fn new(layer: &'a mut dyn Read, limits: &Limits) -> Result<Self, LayerError> {
        let watched = Watched::new(layer).map_err(LayerError::Source)?;
        let first = watched.first.get_ref().clone();
        let compressed = BufReader::with_capacity(CHUNK, watched);
        let source = if first.starts_with(&[0x1f, 0x8b]) {
            Source::Gzip(Box::new(MultiGzDecoder::new(compressed)))
        } else if zstd::is_start(&first) {
            Source::Zstd(Box::new(Zstd::new(compressed)))
        } else if first.starts_with(b"\xfd7zXZ\0") {
            return Err(LayerError::UnknownCompression("xz"));
        } else if first.starts_with(b"BZh") {
            return Err(LayerError::UnknownCompression("bzip2"));
        } else {
            Source::Plain(compressed)
        };
        Ok(Self {
            source,
            hasher: hash::Stream::default(),
            buffer: vec![0; CHUNK].into_boxed_slice(),
            start: 0,
            end: 0,
            unpacked: 0,
            limit: limits.bytes,
        })
    }

    /// How far into the uncompressed archive the next byte is.
    pub(super) fn position(&self) -> u64 {
        self.unpacked - (self.end - self.start) as u64
    }

    /// Some bytes that come next, at most `most`; none only at the end or if `most` is 0. They
    /// count as read.
    pub(super) fn take(&mut self, most: u64) -> Result<&[u8], LayerError> {
        if self.start == self.end && most > 0 {
            self.fill()?;
        }
        let there = self.end - self.start;
        let length = usize::try_from(most).map_or(there, |most| most.min(there));
        let start = self.start;
        self.start += length;
        Ok(&self.buffer[start..start + length])
    }

    /// Whether nothing comes any more.
    pub(super) fn is_at_end(&mut self) -> Result<bool, LayerError> {
        if self.start == self.end {
            self.fill()?;
        }
        Ok(self.start == self.end)
    }

    /// Reads as much of `target` as there is, and says how much that was.
    pub(super) fn read_up_to(&mut self, target: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < target.len() {
            let bytes = self.take((target.len() - filled) as u64)?;
            if bytes.is_empty() {
                break;
            }
            target[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
        Ok(filled)
    }

    /// Reads everything that is left, and says what the SHA-256 of the whole is.
    pub(super) fn finish(mut self) -> Result<String, LayerError> {
        while !self.take(u64::MAX)?.is_empty() {}
        Ok(self.hasher.finish())
    }

    fn fill(&mut self) -> Result<(), LayerError> {
        let read = loop {
            let read = match &mut self.source {
                Source::Plain(source) => source.read(&mut self.buffer),
                Source::Gzip(source) => source.read(&mut self.buffer),
                Source::Zstd(source) => source.read(&mut self.buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(error)),
                Ok(read) => break read,
            }
        };
        self.hasher.update(&self.buffer[..read]);
        self.unpacked += read as u64;
        (self.start, self.end) = (0, read);
        if self.unpacked > self.limit {
            return Err(LayerError::TooLarge { what: "bytes unpacked", limit: self.limit });
        }
        Ok(())
    }

    fn failure(&self, error: io::Error) -> LayerError {
        let (format, source) = match &self.source {
            Source::Plain(_) => return LayerError::Source(error),
            Source::Gzip(gzip) => ("gzip", gzip.get_ref()),
            Source::Zstd(zstd) => ("zstd", zstd.source()),
        };
        if source.get_ref().failed {
            LayerError::Source(error)
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            LayerError::Truncated("its compressed stream is not complete")
        } else {
            LayerError::Compression { format, reason: error.to_string() }
        }
    }
}

/// Remembers that the layer's source itself failed, which looks like damage to what unpacks it.
struct Watched<'a> {
    /// What was looked at already.
    first: Cursor<Vec<u8>>,
    layer: &'a mut dyn Read,
    failed: bool,
}

impl<'a> Watched<'a> {
    fn new(layer: &'a mut dyn Read) -> io::Result<Self> {
        // A pipe may give one byte after the other.
        let mut first = Vec::with_capacity(MAGIC_MAX);
        (&mut *layer).take(MAGIC_MAX as u64).read_to_end(&mut first)?;
        Ok(Self { first: Cursor::new(first), layer, failed: false })
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.first.read(buffer) {
            Ok(0) => {}
            read => return read,
        }
        let read = self.layer.read(buffer);
        self.failed |= read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}
