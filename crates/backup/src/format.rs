//! The stream of a backup: a header, the chunks of a disk that are not zeros, and an end that vouches
//! for the whole. `docs/backup-format.md` says it for people who write a reader.
//!
//! ```text
//! "BHVOLBK\n"  version  length  manifest (JSON)  XXH3
//! chunk:  01 coding 0000  plain  stored  offset  bytes  XXH3        offsets only grow
//! end:    02 00 0000  chunks  data bytes  SHA-256 of all before
//! ```
//!
//! Numbers are little-endian. The checksum of a chunk says where damage is; the hash at the end says
//! that nothing is missing, moved or from another backup.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::io;

use serde::{Deserialize, Serialize};

use crate::spool::Changed;

pub use read::{peek, read};
pub use write::write;

const MAGIC: &[u8; 8] = b"BHVOLBK\n";
const VERSION: u32 = 1;
/// Most bytes of a manifest.
const MANIFEST_MAX: usize = 64 << 10;
/// Bytes of a chunk that are made here, and the grid that chunks lie on.
const CHUNK: usize = 1 << 20;
/// Most bytes of a chunk that are read.
const CHUNK_MAX: usize = 4 << 20;
/// What is left out at the beginning and end of a chunk is a multiple of this.
const GRAIN: usize = 4096;
/// The largest disk, in bytes: 16 TiB.
pub const SIZE_MAX: u64 = 16 << 40;

const TAG_CHUNK: u8 = 1;
const TAG_END: u8 = 2;
const CODING_RAW: u8 = 0;
const CODING_ZSTD: u8 = 1;
/// Tag, coding, two zeros, plain and stored length, offset.
const CHUNK_HEAD: usize = 4 + 4 + 4 + 8;
/// What of the end comes before its hash: tag, three zeros, chunks, bytes.
const END_HEAD: usize = 4 + 8 + 8;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The volume's name when the backup was made.
    pub volume: String,
    /// The disk's length in bytes.
    pub size: u64,
    /// When it was made, in seconds since the Unix epoch.
    pub created_at: i64,
    /// The version of bhatti that made it.
    pub bhatti: String,
    /// Chunks hold at most so many bytes.
    pub chunk: u32,
    /// How chunks are compressed that are.
    pub compression: String,
    /// Whether the stream was made to be encrypted.
    pub encrypted: bool,
}

impl Manifest {
    /// Of a backup that is made now.
    pub fn new(volume: String, size: u64, encrypted: bool) -> Self {
        Self {
            volume,
            size,
            created_at: base::clock::unix_seconds(),
            bhatti: env!("CARGO_PKG_VERSION").to_owned(),
            chunk: u32::try_from(CHUNK).unwrap_or(u32::MAX),
            compression: "zstd".to_owned(),
            encrypted,
        }
    }
}

/// How much a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Chunks.
    pub chunks: u64,
    /// Bytes of the disk in them.
    pub data: u64,
}

/// Hears how many bytes of the disk, from its beginning, are done; may end it by an error.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as a backup does.
    #[error("this is no backup of a volume")]
    NotABackup,
    /// A newer bhatti made it.
    #[error("the backup has format {0}, and this version of bhatti reads format {VERSION}")]
    Newer(u32),
    /// It ends too early.
    #[error("the backup is cut off")]
    Cut,
    /// It is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// It is encrypted, and no key was given.
    #[error("the backup is encrypted, and no identity was given to open it with")]
    Encrypted,
    /// It is encrypted for somebody else.
    #[error("the backup is encrypted, and not for this identity")]
    WrongIdentity,
    /// What is read from or written to failed.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for FormatError {
    /// What decryption and transfers say of the bytes themselves is said of the backup.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Cut,
            io::ErrorKind::InvalidData if error.get_ref().is_some_and(|e| e.is::<Changed>()) => {
                Self::Damaged("its SHA-256 is not the one that was noted when it was made")
            }
            io::ErrorKind::InvalidData => Self::Damaged("it cannot be decrypted"),
            _ => Self::Io(error),
        }
    }
}
