//! Users' networks in real namespaces: the "host" is one, and so are its LAN, the internet and
//! the metadata service of a cloud. Nothing of it touches the machine's own network.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot run says so")]

mod adopting;
mod frames;
mod guarded;
mod logs;
mod paths;
mod policies;
mod rig;
mod sharing;
mod spoofing;
mod upkeep;
