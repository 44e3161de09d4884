//! The name server of all users' networks.
//!
//! ```text
//! UDP, TCP ─► Responder ── source ──► sandbox ─► local names? ─► answered here
//!                                        └─► may it ask? ─► Forwarder (cache) ─► host's resolvers
//!                                                                    │
//!                  answer without forbidden addresses ◄──────────────┘─► Bindings
//! ```
//!
//! What is answered where:
//!
//! - `<name>`, `<name>.bhatti`, `gateway.bhatti` and addresses of the own network: here. Names
//!   without a dot and names below `.bhatti` never leave.
//! - IPv6 is closed in these networks, so there is never an address of it, and nobody waits for
//!   one. Records that carry addresses or keys for hidden names past our checks (SVCB, HTTPS) are
//!   not there either.
//! - An answer of forbidden addresses only is an answer without addresses (not "no such name": the
//!   name has other records).
//! - With an allow-list, other names are refused at once; with nothing allowed, all names are.

mod forward;
mod message;
mod names;
mod responder;
mod serve;

pub use self::forward::Upstreams;
pub(crate) use self::{
    forward::Forwarder,
    responder::Responder,
    serve::{connections, serve_tcp, serve_udp},
};
