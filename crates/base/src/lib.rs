//! What the standard library lacks and every other crate needs: the one door to processes, files
//! that appear whole or not at all, typed ids, sizes, the clock, what is not the internet, whom
//! to trust, error chains.
//!
//! Invariant: knows nothing of sandboxes, engines or HTTP. Every child process of the host side
//! is started in [`process`].

pub mod address;
pub mod clock;
pub mod error;
pub mod fault;
pub mod files;
pub mod hash;
pub mod ids;
pub mod process;
pub mod random;
#[cfg(feature = "tls")]
pub mod trust;
mod watch;

pub use error::chain;
pub use watch::watch;
