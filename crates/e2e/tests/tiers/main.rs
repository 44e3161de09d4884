//! Images with systemd, and what the larger tiers are for.
//!
//! The tests of the larger tiers run where those have been prepared; `make test-tiers` does that,
//! which takes minutes and downloads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "what was not tested is said")]

mod large;
mod services;

use api::CreateSandbox;
use e2e::{Guest, Node, create_request};

/// A sandbox of a tier.
async fn sandbox_of(node: &Node, tier: &str, memory_mb: u64, disk_size_mb: u64) -> Guest {
    let request = CreateSandbox {
        image: Some(tier.to_owned()),
        memory_mb: Some(memory_mb),
        disk_size_mb: Some(disk_size_mb),
        ..create_request(tier)
    };
    Guest::create_by(node.admin(), request).await
}
