//! What sandboxes are connected to where the daemon is not root: each to a network that its monitor
//! makes for it alone.
//!
//! What such a monitor lets out reaches whatever its user can, the host's own services first of all.
//! So it lets nothing out unless the operator has said so, and what it cannot enforce is refused.

use net::{
    address::{Place, Pool},
    fabric::Caps,
    policy::Mode,
};
use proto::message::Interface;
use vmm::{Nic, UserNetwork};

use crate::{Error, Kind, Result, model::NetworkSpec, record::Record};

/// What the operator lets sandboxes reach in networks of their monitors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UserEgress {
    /// Nothing.
    #[default]
    Deny,
    /// The internet, and with it the host's own services and its LAN.
    Open,
}

impl UserEgress {
    /// Makes of what a request says what the sandbox gets. `said` is whether it says anything of what
    /// it wants to reach.
    ///
    /// # Errors
    /// [`Kind::NetworkUnsupported`] if that cannot be had here.
    pub(super) fn fit(self, network: &mut NetworkSpec, said: bool) -> Result<()> {
        if network.isolated {
            return Ok(());
        }
        let mode = &mut network.policy.egress.mode;
        if self == Self::Deny && *mode == Mode::Open {
            if said {
                let message = "no sandbox of this node may reach anything outside";
                return Err(Error::new(Kind::NetworkUnsupported, message).hint(
                    "leave it out, or have the daemon's configuration say user_egress = \"open\" \
                     under [network], which opens the host's own services and its LAN, too",
                ));
            }
            *mode = Mode::Deny;
        }
        enforceable(network)
    }

    /// Whether a sandbox's connections are passed on.
    fn opens(self, network: &NetworkSpec) -> bool {
        self == Self::Open && !network.isolated && network.policy.egress.mode == Mode::Open
    }

    pub(super) fn nic(self, record: &Record) -> Result<Nic> {
        let network = &record.spec.network;
        if !network.isolated {
            enforceable(network)?;
        }
        Ok(Nic::User { open: self.opens(network) })
    }

    /// That of a monitor that is started for whoever comes first.
    pub(super) fn spare(self) -> Nic {
        Nic::User { open: self == Self::Open }
    }

    /// Whether [`spare`](Self::spare) is what a sandbox gets. Nothing can be opened or closed later.
    pub(super) fn takes_spare(self, record: &Record) -> bool {
        self.nic(record).is_ok_and(|nic| nic.connects() == self.spare().connects())
    }

    /// What the guest is told of its interface.
    pub(super) fn interface(self, record: &Record) -> Option<Interface> {
        let network = &record.spec.network;
        let mac = place(record)?.mac().0;
        // Where nothing answers, a question would be asked again and again until it is given up.
        let name_server = match self.opens(network) {
            true => UserNetwork::NAME_SERVER,
            false => std::net::Ipv4Addr::LOCALHOST,
        };
        (!network.isolated).then_some(Interface {
            mac,
            address: UserNetwork::ADDRESS,
            prefix: UserNetwork::PREFIX,
            gateway: UserNetwork::GATEWAY,
            name_server,
        })
    }
}

/// What an owner can be told who wants to change it.
pub(super) fn unchangeable() -> Error {
    let message =
        "what a sandbox may reach cannot be changed on this node, whose daemon is not root";
    Error::new(Kind::NetworkUnsupported, message)
        .hint("say it when you make one: bhatti create --egress deny")
}

/// Whether a monitor's own network can do what is asked of it.
fn enforceable(network: &NetworkSpec) -> Result<()> {
    let policy = &network.policy;
    let cannot = if policy.egress.mode == Mode::Allowlist {
        "allow-lists"
    } else if !policy.egress.cidrs.is_empty() {
        "ranges that are open"
    } else if policy.caps != Caps::default() {
        "limits of traffic"
    } else {
        return Ok(());
    };
    let message = format!("there are no {cannot} on this node, whose daemon is not root");
    let hint = "use --egress deny or --network none, or a node whose daemon is root";
    Err(Error::new(Kind::NetworkUnsupported, message).hint(hint))
}

/// Hardware addresses differ although nobody would notice if they did not.
fn place(record: &Record) -> Option<Place> {
    let address = record.address;
    let pool = Pool::default();
    (u32::from(address.network) < pool.users())
        .then(|| pool.user(address.network))?
        .place(address.host)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::ids::UserId;
    use net::{fabric::Policy, policy::Egress};
    use proptest::prelude::*;

    use super::*;
    use crate::{model::Spec, record::Address};

    fn spec(mode: Mode) -> NetworkSpec {
        let egress = Egress { mode, ..Egress::default() };
        NetworkSpec { isolated: false, policy: Policy { egress, ..Policy::default() } }
    }

    fn record(network: NetworkSpec) -> Record {
        let mut record = crate::testing::record(&UserId::random(), "box");
        record.spec = Arc::new(Spec { network, ..Spec::clone(&record.spec) });
        record.address = Address { network: 1, host: 7 };
        record
    }

    fn open(node: UserEgress, network: &NetworkSpec) -> bool {
        matches!(node.nic(&record(network.clone())).unwrap(), Nic::User { open: true })
    }

    #[test]
    fn nothing_gets_out_unless_operator_and_owner_agree() {
        for (node, mode, expected) in [
            (UserEgress::Open, Mode::Open, true),
            (UserEgress::Open, Mode::Deny, false),
            (UserEgress::Deny, Mode::Open, false),
            (UserEgress::Deny, Mode::Deny, false),
        ] {
            assert_eq!(open(node, &spec(mode)), expected, "{node:?} {mode:?}");
        }
        let none = NetworkSpec { isolated: true, ..spec(Mode::Open) };
        assert!(!open(UserEgress::Open, &none));
        assert!(UserEgress::Open.interface(&record(none)).is_none());
        assert_eq!(UserEgress::default(), UserEgress::Deny);
    }

    #[test]
    fn a_monitor_that_was_started_ahead_is_given_to_nobody_who_should_have_another() {
        let takes = |node: UserEgress, mode| node.takes_spare(&record(spec(mode)));
        assert!(takes(UserEgress::Open, Mode::Open) && !takes(UserEgress::Open, Mode::Deny));
        assert!(takes(UserEgress::Deny, Mode::Open) && takes(UserEgress::Deny, Mode::Deny));
        assert!(!takes(UserEgress::Deny, Mode::Allowlist));
        let none = record(NetworkSpec { isolated: true, ..spec(Mode::Open) });
        assert!(UserEgress::Deny.takes_spare(&none) && !UserEgress::Open.takes_spare(&none));
    }

    #[test]
    fn who_says_nothing_gets_what_there_is_and_who_asks_for_more_is_refused() {
        let mut silent = spec(Mode::Open);
        UserEgress::Deny.fit(&mut silent, false).unwrap();
        assert_eq!(silent.policy.egress.mode, Mode::Deny);
        let refused = UserEgress::Deny.fit(&mut spec(Mode::Open), true).unwrap_err();
        assert_eq!(refused.kind, Kind::NetworkUnsupported);
        assert!(refused.hint.unwrap().contains("user_egress"));
        UserEgress::Open.fit(&mut spec(Mode::Open), true).unwrap();
        UserEgress::Deny.fit(&mut spec(Mode::Deny), true).unwrap();
    }

    #[test]
    fn a_closed_sandbox_asks_nobody_for_names() {
        let interface = |node: UserEgress| node.interface(&record(spec(Mode::Open))).unwrap();
        assert_eq!(interface(UserEgress::Open).name_server, UserNetwork::NAME_SERVER);
        assert!(interface(UserEgress::Deny).name_server.is_loopback());
        assert_eq!(interface(UserEgress::Deny).address, UserNetwork::ADDRESS);
    }

    proptest! {
        #[test]
        fn what_cannot_be_enforced_is_refused_at_a_create_and_at_a_start(
            mode in prop_oneof![Just(Mode::Open), Just(Mode::Deny), Just(Mode::Allowlist)],
            range in any::<bool>(), bytes in proptest::option::of(1u32..), operator in any::<bool>(),
        ) {
            let node = if operator { UserEgress::Open } else { UserEgress::Deny };
            let mut wanted = spec(mode);
            wanted.policy.caps.bytes_per_second = bytes;
            if range {
                wanted.policy.egress.cidrs.push("203.0.113.0/24".parse().unwrap());
            }
            let possible = mode != Mode::Allowlist && !range && bytes.is_none();
            prop_assert_eq!(node.nic(&record(wanted.clone())).is_ok(), possible);
            prop_assert_eq!(node.fit(&mut wanted, false).is_ok(), possible);
        }
    }
}
