//! What differs if the daemon is not root. Nothing of it keeps sandboxes from running, and nothing of
//! it goes unsaid.

use api::{EgressMode, NetworkMode};

use super::Finding;
use crate::commands::doctor::facts::Facts;

/// In place of what is judged for root: control groups, namespaces, network tools, networks.
pub(super) fn all(facts: &Facts) -> [Finding; 4] {
    [limits(), namespaces(facts), network_tools(facts), networks(facts)]
}

fn limits() -> Finding {
    Finding::warn(
        "cgroup limits",
        "none without root: CPU time and tasks of a VM are not limited, and its memory only by what \
         its monitor may map, the guest's and 2 GB",
        "run the daemon as root if guests are not trusted to be modest",
    )
}

fn namespaces(facts: &Facts) -> Finding {
    const CHECK: &str = "namespaces";
    match &facts.rootless.namespaces {
        Ok(()) => Finding::warn(
            CHECK,
            "without root: a monitor has a user namespace, sees none of your files and cannot look \
             into other processes, but it has your user id and groups, and could signal your processes",
            "run the daemon as a user of its own, or as root, which gives each monitor an own user id",
        ),
        Err(error) => Finding::warn(
            CHECK,
            format!(
                "NONE without root, since this host does not let users make them ({error}): who \
                 breaks out of a VM can do all that you can"
            ),
            "let users make them: sysctl kernel.unprivileged_userns_clone=1, or on Ubuntu \
             kernel.apparmor_restrict_unprivileged_userns=0; or run the daemon as root",
        ),
    }
}

fn network_tools(facts: &Facts) -> Finding {
    const CHECK: &str = "network tools";
    if facts.rootless.user_network || facts.qemu.is_err() {
        return Finding::ok(
            CHECK,
            "none needed without root: QEMU makes a network for each sandbox",
        );
    }
    let found =
        "this QEMU cannot make networks for its guests, and without root there are no others";
    Finding::fail(CHECK, found, "use your distribution's QEMU, or one that was built with libslirp")
}

fn networks(facts: &Facts) -> Finding {
    const CHECK: &str = "networks";
    let differs = "without root each sandbox is alone in its network: none between sandboxes, no \
                   names of others, no allow-lists, ranges, limits and log of traffic";
    let hint = "see docs/networking.md; run the daemon as root for networks of users";
    match &facts.network_mode {
        Some((NetworkMode::Off, _)) => Finding::ok(CHECK, "mode off: sandboxes have no network"),
        Some((_, Some(EgressMode::Open))) => Finding::warn(
            CHECK,
            format!(
                "mode user, OPEN: sandboxes reach the internet, and with it this host's own services \
                 (10.0.2.2 is its loopback) and its LAN; {differs}"
            ),
            "take user_egress out of the daemon's configuration to close them",
        ),
        Some(_) => Finding::warn(CHECK, format!("mode user, no way out; {differs}"), hint),
        None => {
            Finding::warn(CHECK, format!("not looked at, no daemon tells of them; {differs}"), hint)
        }
    }
}
