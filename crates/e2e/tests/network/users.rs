//! What an admin lets a user's sandboxes reach.

use api::{CreateSandbox, EditUser, Egress, EgressMode, ErrorCode, NetworkLimits};
use e2e::{Guest, Node, create_request, refused};

use crate::{
    egress::{allow, change, has, policy},
    guests::{Line, get, ways},
    world::{GOOD, HOST, LAN, OTHER, World, guest_of, user},
};

async fn edit(node: &Node, edit: EditUser) {
    node.admin().edit_user("alice", &edit).await.unwrap();
}

fn ceiling(egress: Egress) -> EditUser {
    EditUser { egress: Some(egress), ..EditUser::default() }
}

fn none() -> Egress {
    policy(EgressMode::Default, &[], &[])
}

/// What of the two servers a guest reaches by name.
async fn reaches(guest: &mut Guest) -> [bool; 2] {
    let (good, other) = (get(guest, "good.example").await, get(guest, "other.example").await);
    assert!(good.is_none() || good == Some(format!("{GOOD} to {HOST}")), "{good:?}");
    [good.is_some(), other.is_some()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ceiling_holds_for_all_sandboxes_of_a_user_whatever_they_say() {
    let world = World::new();
    let mut node = world.node();
    node.expect_warning("connection is lost");
    let alice = user(&node, "alice").await;
    let mut silent = guest_of(&node, &alice, "silent").await;
    let open = CreateSandbox {
        egress: Some(policy(EgressMode::Open, &[], &[])),
        ..create_request("open")
    };
    let mut open = Guest::create_by(node.client(&alice), open).await;
    let line = Line::to(&mut open, GOOD, 7).await;
    let told = node.cli(&["user", "edit", "alice", "--allow-host", "other.example"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("at most allowlist, other.example"), "{told}");
    assert!(line.is_cut(&mut open, "over").await);
    for guest in [&mut silent, &mut open] {
        assert_eq!(reaches(guest).await, [false, true]);
        assert_eq!(get(guest, OTHER).await, None, "a name and not its address");
    }
    let log = open.client.egress_log(&open.id).await.unwrap();
    assert!(has(&log.attempts, "good.example", false, "user_policy"), "{log:#?}");
    assert_eq!(log.suggested.allow_hosts, ["other.example"]);
    assert_eq!(log.beyond.unwrap().allow_hosts, ["good.example"]);
    let view = open.view().await;
    assert_eq!(view.egress.unwrap().mode, EgressMode::Open);
    assert_eq!(view.effective_egress.unwrap(), allow(&["other.example"]));
    // Both have to allow it.
    change(&mut open, allow(&["good.example"])).await;
    assert_eq!(reaches(&mut open).await, [false, false]);
    change(&mut open, allow(&["*.example"])).await;
    assert_eq!(reaches(&mut open).await, [false, true]);

    // Whatever becomes of the sandbox, and of the daemon.
    let mut copy = open.fork("copy", 1, || node.client(&alice)).await.remove(0);
    assert_eq!(reaches(&mut copy).await, [false, true]);
    copy.destroy().await;
    open.stop().await;
    assert_eq!(reaches(&mut open).await, [false, true]);
    node.kill9();
    node.restart();
    let mut open = open.by(node.client(&alice));
    let mut silent = silent.by(node.client(&alice));
    assert_eq!(reaches(&mut open).await, [false, true]);
    assert_eq!(reaches(&mut silent).await, [false, true]);

    // A user may look and not change; others may not even look.
    let mut client = node.client(&alice);
    let own = client.user("me").await.unwrap();
    assert_eq!(own.egress.clone().unwrap(), allow(&["other.example"]));
    let outcome = client.edit_user("alice", &ceiling(none())).await;
    assert_eq!(refused(outcome).code, ErrorCode::Forbidden);
    assert_eq!(refused(client.user("admin").await).code, ErrorCode::Forbidden);

    edit(&node, ceiling(none())).await;
    assert_eq!(reaches(&mut open).await, [true, true], "its own list is all that is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_is_for_those_that_say_nothing_and_a_named_range_may_be_opened() {
    let world = World::new();
    let node = world.node();
    let alice = user(&node, "alice").await;
    let mut silent = guest_of(&node, &alice, "silent").await;
    let mut open = guest_of(&node, &alice, "open").await;
    let lan = policy(EgressMode::Open, &[], &["192.168.77.0/24"]);
    let outcome = open.client.edit(&open.id, &opening(&lan)).await;
    assert_eq!(refused(outcome).code, ErrorCode::PermissionDenied);
    // By its ceiling a user may open what nobody else may.
    edit(&node, ceiling(lan.clone())).await;
    assert_eq!(ways(&mut open, LAN).await, [""; 0], "it has to say so");
    change(&mut open, lan.clone()).await;
    assert_eq!(ways(&mut open, LAN).await, crate::guests::ALL);
    let deny = Some(policy(EgressMode::Deny, &[], &[]));
    edit(&node, EditUser { default_egress: deny, ..EditUser::default() }).await;
    assert_eq!(reaches(&mut silent).await, [false, false]);
    assert!(silent.view().await.egress_by_default);
    assert_eq!(reaches(&mut open).await, [true, true]);
    change(&mut open, none()).await;
    assert_eq!(reaches(&mut open).await, [false, false]);
    change(&mut open, lan).await;
    edit(&node, EditUser { egress: Some(none()), ..EditUser::default() }).await;
    assert_eq!(ways(&mut open, LAN).await, [""; 0], "what opened it is gone");

    let limits = NetworkLimits { bytes_per_second: Some(100_000), packets_per_second: None };
    edit(&node, EditUser { network_limits: Some(limits), ..EditUser::default() }).await;
    assert_eq!(open.view().await.effective_network_limits, Some(limits));
    let shown = String::from_utf8(node.cli(&["user", "show", "alice"]).stdout).unwrap();
    assert!(shown.contains("deny") && shown.contains("100K bytes/s"), "{shown}");
}

fn opening(egress: &Egress) -> api::EditSandbox {
    api::EditSandbox { egress: Some(egress.clone()), ..api::EditSandbox::default() }
}
