//! Backups of disks: one stream of bytes that holds what a disk held, where such streams are kept,
//! and when they are made and thrown away.
//!
//! ```text
//!  disk ──► format::write ──► seal ──► spool (a file) ──► Destination ──► folder | S3
//!  disk ◄── format::read  ◄── seal::open ◄──────────────── Destination
//! ```
//!
//! The stream is described in `docs/backup-format.md`. It is made on this host first, as a file
//! whose length and hash are known before anything is sent: what is sent can then be sent again,
//! after an error or by a later daemon, byte for byte, also if it is encrypted. What comes back is
//! never trusted: every chunk is checked, and decompressed by code without `unsafe`.
//!
//! Making and reading streams blocks; destinations are asynchronous.
//!
//! Invariant: knows neither volumes' chains of layers nor the store. A source is whatever says
//! where it has data.

pub mod destination;
pub mod folder;
pub mod format;
pub mod retention;
pub mod s3;
pub mod schedule;
pub mod seal;
pub mod source;
pub mod spool;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod bridge;
mod http;

pub use destination::{Destination, DestinationError};
