//! From a stream to a disk. Nothing that the stream says is believed before it is checked, and
//! nothing is set aside for it beyond a chunk.

use std::io::{ErrorKind, Read};

use ruzstd::decoding::FrameDecoder;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    CHUNK_HEAD, CHUNK_MAX, CODING_RAW, CODING_ZSTD, END_HEAD, FormatError, MAGIC, MANIFEST_MAX,
    Manifest, Progress, SIZE_MAX, TAG_CHUNK, TAG_END, Totals, VERSION,
};
use crate::source::Target;

type Result<T> = std::result::Result<T, FormatError>;

/// Writes the disk that `input` is the backup of. Only if this succeeds does `target` hold what was
/// backed up: damage may show at the very end.
///
/// # Errors
/// [`FormatError`] says what is wrong with the stream, or what failed.
pub fn read(
    input: &mut dyn Read,
    target: &mut dyn Target,
    progress: Progress<'_>,
) -> Result<(Manifest, Totals)> {
    let mut reader = Reader::new(input);
    let manifest = reader.header()?;
    target.begin(manifest.size)?;
    let (mut totals, mut done) = (Totals::default(), 0);
    loop {
        let mut head = [0; CHUNK_HEAD];
        reader.fill(&mut head[..4])?;
        match head[..4] {
            [TAG_CHUNK, coding, 0, 0] => {
                reader.fill(&mut head[4..])?;
                let chunk = Chunk::new(coding, &head, done, manifest.size)?;
                let data = reader.chunk(&head, &chunk)?;
                target.write_at(data, chunk.offset)?;
                done = chunk.offset + chunk.plain as u64;
                totals.chunks += 1;
                totals.data += chunk.plain as u64;
                progress(done)?;
            }
            [TAG_END, 0, 0, 0] => {
                reader.end(totals)?;
                progress(manifest.size)?;
                return Ok((manifest, totals));
            }
            _ => return Err(FormatError::Damaged("a record is of no known kind")),
        }
    }
}

/// Only what a stream says of itself.
///
/// # Errors
/// As of [`read`].
pub fn peek(input: &mut dyn Read) -> Result<Manifest> {
    Reader::new(input).header()
}

/// What the head of a chunk says, as far as it can be true.
struct Chunk {
    coding: u8,
    plain: usize,
    stored: usize,
    offset: u64,
}

impl Chunk {
    fn new(coding: u8, head: &[u8; CHUNK_HEAD], done: u64, size: u64) -> Result<Self> {
        let plain = length(head, 4);
        let stored = length(head, 8);
        let offset = number(head, 12);
        let fits = match coding {
            CODING_RAW => stored == plain,
            CODING_ZSTD => stored < plain,
            _ => return Err(FormatError::Damaged("a chunk is of no known coding")),
        };
        if plain == 0 || stored == 0 || plain > CHUNK_MAX || !fits {
            return Err(FormatError::Damaged("a chunk has an impossible length"));
        }
        let within = offset.checked_add(plain as u64).is_some_and(|end| end <= size);
        if offset < done || !within {
            return Err(FormatError::Damaged("a chunk is where it cannot be"));
        }
        Ok(Self { coding, plain, stored, offset })
    }
}

struct Reader<'a> {
    input: &'a mut dyn Read,
    hasher: Sha256,
    /// The record that is read: head, bytes, checksum.
    record: Vec<u8>,
    plain: Vec<u8>,
    decoder: FrameDecoder,
}

impl<'a> Reader<'a> {
    fn new(input: &'a mut dyn Read) -> Self {
        Self {
            input,
            hasher: Sha256::new(),
            record: Vec::new(),
            plain: Vec::new(),
            decoder: FrameDecoder::new(),
        }
    }

    fn header(&mut self) -> Result<Manifest> {
        let mut fixed = [0; 16];
        self.fill(&mut fixed[..8]).map_err(|error| match error {
            FormatError::Cut => FormatError::NotABackup,
            other => other,
        })?;
        if fixed[..8] != *MAGIC {
            return Err(FormatError::NotABackup);
        }
        self.fill(&mut fixed[8..])?;
        let version = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        if version > VERSION {
            return Err(FormatError::Newer(version));
        }
        let wanted = length(&fixed, 12);
        if version == 0 || wanted > MANIFEST_MAX {
            return Err(FormatError::Damaged("its header is impossible"));
        }
        self.record.clear();
        self.record.extend_from_slice(&fixed);
        let json = self.body(fixed.len(), wanted)?;
        let manifest: Manifest = serde_json::from_slice(&self.record[json])
            .map_err(|_| FormatError::Damaged("its manifest cannot be read"))?;
        if manifest.size > SIZE_MAX {
            return Err(FormatError::Damaged("it says to be of an impossible size"));
        }
        Ok(manifest)
    }

    fn chunk(&mut self, head: &[u8; CHUNK_HEAD], chunk: &Chunk) -> Result<&[u8]> {
        self.record.clear();
        self.record.extend_from_slice(head);
        let stored = self.body(CHUNK_HEAD, chunk.stored)?;
        if chunk.coding == CODING_RAW {
            return Ok(&self.record[stored]);
        }
        self.plain.resize(chunk.plain, 0);
        let written = self.decoder.decode_all(&self.record[stored], &mut self.plain);
        if !matches!(written, Ok(length) if length == chunk.plain) {
            return Err(FormatError::Damaged("a chunk cannot be decompressed"));
        }
        Ok(&self.plain)
    }

    /// Reads `length` bytes and their checksum behind the `head` bytes of the record, and says
    /// where in the record they are.
    fn body(&mut self, head: usize, length: usize) -> Result<std::ops::Range<usize>> {
        let end = head + length;
        self.record.resize(end + 8, 0);
        fill(self.input, &mut self.record[head..])?;
        let sum = number(&self.record, end);
        if xxh3_64(&self.record[..end]) != sum {
            return Err(FormatError::Damaged("a checksum is wrong"));
        }
        self.hasher.update(&self.record);
        Ok(head..end)
    }

    fn end(&mut self, totals: Totals) -> Result<()> {
        let mut head = [0; END_HEAD];
        head[0] = TAG_END;
        self.fill(&mut head[4..])?;
        if number(&head, 4) != totals.chunks || number(&head, 12) != totals.data {
            return Err(FormatError::Damaged("something is missing"));
        }
        self.hasher.update(head);
        let mut said = [0; 32];
        self.fill(&mut said)?;
        if self.hasher.finalize_reset()[..] != said[..] {
            return Err(FormatError::Damaged("its hash is wrong"));
        }
        loop {
            match self.input.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(FormatError::Damaged("something follows its end")),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        fill(self.input, buffer)
    }
}

fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> Result<()> {
    input.read_exact(buffer).map_err(FormatError::from)
}

fn length(bytes: &[u8], at: usize) -> usize {
    let value = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
