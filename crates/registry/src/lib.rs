//! Images out of registries (OCI distribution), from hosts that need not be trusted.
//!
//! ```text
//! Client::resolve(reference) ──► Remote: digest, configuration, layers
//!                                   │ download(directory, which layers)
//!                                   ▼
//!                                Downloads::next ──► Layer in a file, verified, one by one
//! ```
//!
//! A user of the API says which registry is asked, so nothing of what it answers is believed:
//! every connection is to an address that [`Reach`] allows, redirects and token servers included;
//! everything is read up to a limit and within a time; and nothing is handed out whose SHA-256 is
//! not the one that the manifest, or the reference, says.
//!
//! What the configuration and the layers contain is somebody else's: this crate knows as much of
//! them as it needs to choose and to verify.

mod challenge;
mod client;
mod connection;
mod digest;
mod download;
mod error;
mod manifest;
mod reach;
mod reference;
mod session;

pub use client::{
    Client, Credentials, InvalidCredentials, Limits, Options, Patience, Request, STALL_BYTES,
};
pub use digest::{Digest, InvalidDigest};
pub use download::{Downloaded, Downloads, Progress, Remote, State};
pub use error::{Error, Kind};
#[cfg(fuzzing)]
pub use manifest::read_documents;
pub use manifest::{Layer, Platform};
pub use reach::{Addresses, Reach, Resolver};
pub use reference::Reference;
