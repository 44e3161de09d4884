//! What a policy outlives.

use api::EgressMode;
use e2e::Guest;

use crate::{
    egress::{guest_with, policy},
    guests::{ALL, get, ways},
    world::{GOOD, HOST, LAN, OTHER, World},
};

/// What a guest reaches that may ask for `good.example` and go into the LAN.
async fn holds(guest: &mut Guest, when: &str) {
    assert_eq!(get(guest, "good.example").await, Some(format!("{GOOD} to {HOST}")), "{when}");
    assert_eq!(get(guest, "other.example").await, None, "{when}");
    assert_eq!(get(guest, OTHER).await, None, "{when}");
    assert_eq!(ways(guest, LAN).await, ALL, "{when}");
    let view = guest.view().await;
    let egress = view.egress.unwrap();
    assert_eq!(egress.mode, EgressMode::Allowlist, "{when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_stays_whatever_becomes_of_its_sandbox() {
    let world = World::new();
    let mut node = world.node();
    node.expect_warning("connection is lost");
    let both = policy(EgressMode::Allowlist, &["good.example"], &["192.168.77.0/24"]);
    let mut guest = guest_with(&node, "dev", both).await;
    holds(&mut guest, "at first").await;
    guest.stop().await;
    holds(&mut guest, "after a wake").await;
    let mut copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
    holds(&mut copy, "in a fork").await;
    copy.destroy().await;
    guest.checkpoint("snap").await;
    let mut resumed = Guest::resumed(node.admin(), "snap", "resumed").await;
    holds(&mut resumed, "in a copy of a snapshot").await;
    resumed.destroy().await;
    node.kill9();
    node.restart();
    let mut guest = guest.by(node.admin());
    holds(&mut guest, "after the daemon's death").await;
    // A place that was somebody's with a policy has none for the next.
    guest.destroy().await;
    let mut next = Guest::create(&node, "next").await;
    assert_eq!(get(&mut next, "other.example").await, Some(format!("{OTHER} to {HOST}")));
    assert_eq!(ways(&mut next, LAN).await, [""; 0]);
}
