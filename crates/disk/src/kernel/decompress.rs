//! The compression formats that kernel builds use, told apart by their first bytes.
//!
//! Input is not trusted: every decoder stops at a size limit and fails on damage. What follows
//! the compressed stream is ignored, because kernel builds append four bytes with the size.

use std::io::{self, Read};

/// The largest dictionary or window that a stream may ask for, in KiB. Kernels use up to 128 MiB.
const MEMORY_MAX_KIB: u32 = 640 << 10;

/// The size of the blocks of lz4's legacy frame, in bytes.
const LZ4_BLOCK: usize = 8 << 20;

/// The largest block that lzop writes, in bytes (`MAX_BLOCK_SIZE` in lzop).
const LZOP_BLOCK_MAX: usize = 64 << 20;

const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZOP: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];

/// Why data cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// The first bytes belong to no known format.
    #[error("unsupported compression, the data begins with {0:02x?}")]
    Unsupported(Vec<u8>),
    /// The stream is damaged or cut short.
    #[error("damaged {format} data: {reason}")]
    Damaged {
        /// The compression format.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The content is larger than allowed.
    #[error("more than {limit} bytes of content")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

/// The content of `data`, which must not be larger than `limit` bytes.
pub(crate) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    if data.starts_with(&[0x1f, 0x8b]) {
        read_all("gzip", flate2::read::GzDecoder::new(data), limit)
    } else if data.starts_with(b"\xfd7zXZ\0") {
        read_all("xz", lzma_rust2::XzReader::new_mem_limit(data, false, MEMORY_MAX_KIB), limit)
    } else if data.starts_with(b"BZh") {
        read_all("bzip2", bzip2::read::BzDecoder::new(data), limit)
    } else if data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let window = u64::from(MEMORY_MAX_KIB) << 10;
        let reader = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, window)
            .map_err(|error| damaged("zstd", error))?;
        read_all("zstd", reader, limit)
    } else if data.starts_with(&LZ4_LEGACY) {
        lz4_legacy(data, limit)
    } else if data.starts_with(&LZOP) {
        lzop(data, limit)
    } else if data.starts_with(&[0x5d, 0, 0]) {
        let reader = lzma_rust2::LzmaReader::new_mem_limit(data, MEMORY_MAX_KIB, None)
            .map_err(|error| damaged("lzma", error))?;
        read_all("lzma", reader, limit)
    } else {
        Err(DecompressError::Unsupported(data[..data.len().min(6)].to_vec()))
    }
}

fn damaged(format: &'static str, reason: impl std::fmt::Display) -> DecompressError {
    DecompressError::Damaged { format, reason: format!("{reason}") }
}

fn read_all(
    format: &'static str,
    reader: impl Read,
    limit: usize,
) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    let result: io::Result<usize> = reader.take(limit as u64 + 1).read_to_end(&mut out);
    result.map_err(|error| damaged(format, error))?;
    if out.len() > limit {
        return Err(DecompressError::TooLarge { limit });
    }
    Ok(out)
}

/// Takes the next `n` bytes off `data`.
fn take<'a>(
    format: &'static str,
    data: &mut &'a [u8],
    n: usize,
) -> Result<&'a [u8], DecompressError> {
    let (head, tail) =
        data.split_at_checked(n).ok_or_else(|| damaged(format, "it ends too early"))?;
    *data = tail;
    Ok(head)
}

/// lz4's legacy frame: the magic number, then blocks of a 32-bit length and that much compressed
/// data, without an end mark. See "Legacy frame" in lz4's `lz4_Frame_format.md`.
fn lz4_legacy(data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    let mut data = &data[LZ4_LEGACY.len()..];
    // Less than a length and some data is the appended size.
    while data.len() > 4 {
        let head = take("lz4", &mut data, 4)?;
        if head == LZ4_LEGACY {
            continue;
        }
        let length = u32_le(head) as usize;
        let compressed = take("lz4", &mut data, length)?;
        let n = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| damaged("lz4", error))?;
        if out.len() + n > limit {
            return Err(DecompressError::TooLarge { limit });
        }
        out.extend_from_slice(&block[..n]);
    }
    Ok(out)
}

/// lzop's file format as `lib/decompress_unlzo.c` of Linux reads it: a header that is skipped,
/// then blocks of content length, data length (both big-endian), a checksum and the data, which
/// is stored as it is if both lengths are equal. A content length of 0 ends it.
fn lzop(data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    const EXTENDED: u16 = 0x0940;
    const HAS_FILTER: u32 = 0x0800;
    let format = "lzo";
    let mut data = &data[LZOP.len()..];
    let version = take(format, &mut data, 2)?;
    let extended = u16::from_be_bytes([version[0], version[1]]) >= EXTENDED;
    // Library version, version needed to extract and method; the level came with 0.94.
    take(format, &mut data, if extended { 6 } else { 5 })?;
    let flags = u32_be(take(format, &mut data, 4)?);
    take(format, &mut data, if flags & HAS_FILTER == 0 { 0 } else { 4 })?;
    // Mode and time, which has a high half since 0.94.
    take(format, &mut data, if extended { 12 } else { 8 })?;
    let name = usize::from(take(format, &mut data, 1)?[0]);
    take(format, &mut data, name + 4)?;

    let mut out = Vec::new();
    loop {
        let content = u32_be(take(format, &mut data, 4)?) as usize;
        if content == 0 {
            return Ok(out);
        }
        let stored = u32_be(take(format, &mut data, 4)?) as usize;
        take(format, &mut data, 4)?;
        if content > LZOP_BLOCK_MAX || stored > content {
            return Err(damaged(format, "a block has an impossible length"));
        }
        let compressed = take(format, &mut data, stored)?;
        let start = out.len();
        if start + content > limit {
            return Err(DecompressError::TooLarge { limit });
        }
        if stored == content {
            out.extend_from_slice(compressed);
            continue;
        }
        out.resize(start + content, 0);
        let n = lzokay::decompress::decompress(compressed, &mut out[start..])
            .map_err(|error| damaged(format, format!("{error:?}")))?;
        if n != content {
            return Err(damaged(format, "a block is shorter than it says"));
        }
    }
}

fn u32_le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u32_be(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
