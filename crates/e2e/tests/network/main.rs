//! Networks of sandboxes between a host, a LAN, a metadata service and an internet of the test's
//! own, on real VMs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod copies;
mod crash;
mod egress;
mod guests;
mod host;
mod lasting;
mod names;
mod paths;
mod users;
mod world;
