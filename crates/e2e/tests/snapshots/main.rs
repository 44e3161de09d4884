//! Snapshots with names, and what is made of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod damage;
mod descent;
mod keeping;
mod kinds;
mod room;
