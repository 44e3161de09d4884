//! What the tests on real VMs stand on: throw-away daemons, handles on their sandboxes, and a look
//! at the host that does not go through the daemon.
//!
//! ```text
//! prepared ── binary, kernel, images, recorded templates: once a machine
//!     └──► Node ── a data directory and a daemon of its own; checks at its end that nothing stays
//!            ├──► Guest ── one sandbox, through the client library
//!            │     ├──► Terminal ── a session of it
//!            │     ├──► Content ── what must not be lost, on its disk and in its memory
//!            │     └──► Living, Counting ── what must go on in it and in its copies
//!            ├──► Machine ── a network namespace, for the daemon's host and those around it
//!            ├──► browser ── a real one, for pages
//!            ├──► world, stored ── whether what the daemon says is what the host has
//!            ├──► Faults ── what is to go wrong inside the daemon, and when
//!            ├──► registry ── a real one, and images made by hand
//!            ├──► cli ── the program that people use
//!            └──► raw ── bytes on the socket, for requests that no client would send
//! ```
//! A machine without QEMU, a kernel or images fails the tests: they exist to run.

pub mod browser;
mod content;
mod copies;
mod daemon;
mod faults;
mod guest;
mod host;
mod living;
mod machine;
mod node;
mod podman;
mod prepared;
pub mod raw;
pub mod registry;
pub mod servers;
mod stored;
mod terminal;
mod world;

pub use content::{Content, Found};
pub use copies::{files_below, flip_bit, truncate};
pub use daemon::{ORDINARY, RunAs};
pub use faults::{Faults, Passing};
pub use guest::{Guest, create_request, root, sh, signal, until};
pub use host::{Tmpfs, descriptors, namespace, process_start, status_field};
pub use living::{Counting, ENOUGH, Living};
pub use machine::Machine;
pub use node::{Node, Options};
pub use podman::Podman;
pub use stored::{images_are_whole, unnamed_content};
pub use terminal::Terminal;
pub use world::agreed;

/// The memory of most sandboxes here, MB: the least in which everything works is the fastest.
pub const MEMORY_MB: u64 = 128;
/// The writable disk of most sandboxes here, MB.
pub const DISK_MB: u64 = 512;

/// The code of a refusal.
///
/// # Panics
/// If the request was not refused by the daemon.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Result<T, api::client::ClientError>) -> api::ErrorBody {
    match outcome {
        Err(api::client::ClientError::Api(body)) => *body,
        other => panic!("expected a refusal by the daemon, got {other:?}"),
    }
}
