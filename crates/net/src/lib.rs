//! Networks for sandboxes: one a user, closed against all others and against the host.
//!
//! ```text
//! host's namespace          our namespace, which lives as long as the daemon or a VM
//!                          ┌──────────────────────────────────────────────────────────┐
//!  route, NAT ◄── veth ────┼── uplink ◄── filter, NAT ◄── bridge of user 0 ── tap ── VM │
//!                          │                 │            bridge of user 1 ── tap ── VM │
//!  daemon ◄── sockets ─────┼── DNS, egress proxy                                      │
//!                          └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: addresses, names of interfaces and rules follow from small numbers by pure functions
//! ([`address`]), so what should be there can be said without looking, and compared.

pub mod address;
mod dns;
pub mod egress;
pub mod fabric;
pub mod policy;

pub use dns::Upstreams;
