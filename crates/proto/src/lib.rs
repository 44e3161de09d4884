//! The wire between the host and the guest agent.
//!
//! ```text
//! byte stream (virtio-serial, vsock)
//!   preamble   both sides: magic, version, nonce          preamble.rs
//!   yamux      one stream an operation                    mux.rs (feature `mux`)
//!     frames   u32 length, u8 kind, payload               frame.rs
//!       JSON requests and responses, raw data bytes       message.rs
//! ```
//!
//! Invariant: apart from `mux` everything here is pure; nothing reads a clock, a file or a socket.

#[cfg(test)]
mod fuzz;

pub mod frame;
pub mod message;
#[cfg(feature = "mux")]
pub mod mux;
pub mod preamble;
