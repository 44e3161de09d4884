//! What sandboxes are connected to where the daemon is not root: each to a network that its monitor
//! makes for it alone.
//!
//! What such a monitor lets out reaches whatever its user can, the host's own services first of all.
//! So it lets nothing out unless the operator has said so, and what it cannot enforce is refused.

use net::{
    address::{Place, Pool},
    fabric::{Caps, Policy},
    policy::{Egress, Mode},
};
use proto::message::Interface;
use vmm::{Nic, UserNetwork};

use crate::{
    Error, Kind, Result,
    model::{NetworkSpec, User},
    record::Record,
    traffic,
};

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
    /// Makes of what a request says what the sandbox gets.
    ///
    /// # Errors
    /// [`Kind::NetworkUnsupported`] if that cannot be had here.
    pub(super) fn fit(self, network: &mut NetworkSpec, owner: &User) -> Result<()> {
        if network.isolated {
            return Ok(());
        }
        let (reach, caps) = traffic::holds(network, Some(owner));
        if self == Self::Deny && reach.holds.mode == Mode::Open {
            if network.egress.is_some() {
                let message = "no sandbox of this node may reach anything outside";
                return Err(Error::new(Kind::NetworkUnsupported, message).hint(
                    "leave it out, or have the daemon's configuration say user_egress = \"open\" \
                     under [network], which opens the host's own services and its LAN, too",
                ));
            }
            network.egress = Some(Egress { mode: Mode::Deny, ..Egress::default() });
        }
        enforceable(&Policy { egress: reach.holds, caps })
    }

    /// Whether a sandbox's connections are passed on.
    fn opens(self, network: &NetworkSpec, policy: &Policy) -> bool {
        self == Self::Open && !network.isolated && policy.egress.mode == Mode::Open
    }

    /// The interface of a sandbox for which `policy` holds.
    pub(super) fn nic(self, record: &Record, policy: &Policy) -> Result<Nic> {
        let network = &record.spec.network;
        if !network.isolated {
            enforceable(policy)?;
        }
        Ok(Nic::User { open: self.opens(network, policy) })
    }

    /// That of a monitor that is started for whoever comes first.
    pub(super) fn spare(self) -> Nic {
        Nic::User { open: self == Self::Open }
    }

    /// Whether [`spare`](Self::spare) is what a sandbox gets. Nothing can be opened or closed later.
    pub(super) fn takes_spare(self, record: &Record, policy: &Policy) -> bool {
        self.nic(record, policy).is_ok_and(|nic| nic.connects() == self.spare().connects())
    }

    /// What the guest is told of its interface.
    pub(super) fn interface(self, record: &Record, policy: &Policy) -> Option<Interface> {
        let network = &record.spec.network;
        let mac = place(record)?.mac().0;
        // Where nothing answers, a question would be asked again and again until it is given up.
        let name_server = match self.opens(network, policy) {
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
fn enforceable(policy: &Policy) -> Result<()> {
    let egress = &policy.egress;
    let exceptions = egress.mode != Mode::Open && !egress.outside.is_empty();
    let cannot = if egress.mode == Mode::Allowlist {
        "allow-lists"
    } else if !egress.cidrs.is_empty() || exceptions {
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
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{self, IdlePolicy, Spec, UserLimits},
        record::Address,
    };

    fn spec(mode: Mode) -> NetworkSpec {
        let egress = Some(Egress { mode, ..Egress::default() });
        NetworkSpec { egress, ..NetworkSpec::default() }
    }

    /// What holds if nobody but its owner says anything.
    fn policy(network: &NetworkSpec) -> Policy {
        let (reach, caps) = traffic::holds(network, Some(&owner()));
        Policy { egress: reach.holds, caps }
    }

    fn owner() -> User {
        User {
            id: UserId::random(),
            name: "o".parse().unwrap(),
            admin: false,
            limits: UserLimits::default(),
            idle: IdlePolicy::default(),
            network: model::UserNetwork::default(),
            created_at: 0,
        }
    }

    fn record(network: NetworkSpec) -> Record {
        let mut record = crate::testing::record(&UserId::random(), "box");
        record.spec = Arc::new(Spec { network, ..Spec::clone(&record.spec) });
        record.address = Address { network: 1, host: 7 };
        record
    }

    fn open(node: UserEgress, network: &NetworkSpec) -> bool {
        let nic = node.nic(&record(network.clone()), &policy(network)).unwrap();
        matches!(nic, Nic::User { open: true })
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
        assert!(UserEgress::Open.interface(&record(none.clone()), &policy(&none)).is_none());
        assert_eq!(UserEgress::default(), UserEgress::Deny);
    }

    #[test]
    fn a_monitor_that_was_started_ahead_is_given_to_nobody_who_should_have_another() {
        let takes =
            |node: UserEgress, mode| node.takes_spare(&record(spec(mode)), &policy(&spec(mode)));
        assert!(takes(UserEgress::Open, Mode::Open) && !takes(UserEgress::Open, Mode::Deny));
        assert!(takes(UserEgress::Deny, Mode::Open) && takes(UserEgress::Deny, Mode::Deny));
        assert!(!takes(UserEgress::Deny, Mode::Allowlist));
        let none = NetworkSpec { isolated: true, ..spec(Mode::Open) };
        let takes = |node: UserEgress| node.takes_spare(&record(none.clone()), &policy(&none));
        assert!(takes(UserEgress::Deny) && !takes(UserEgress::Open));
    }

    #[test]
    fn who_says_nothing_gets_what_there_is_and_who_asks_for_more_is_refused() {
        let owner = owner();
        let mut silent = NetworkSpec::default();
        UserEgress::Deny.fit(&mut silent, &owner).unwrap();
        assert_eq!(silent, spec(Mode::Deny));
        let mut silent = NetworkSpec::default();
        UserEgress::Open.fit(&mut silent, &owner).unwrap();
        assert_eq!(silent, NetworkSpec::default());
        let refused = UserEgress::Deny.fit(&mut spec(Mode::Open), &owner).unwrap_err();
        assert_eq!(refused.kind, Kind::NetworkUnsupported);
        assert!(refused.hint.unwrap().contains("user_egress"));
        UserEgress::Open.fit(&mut spec(Mode::Open), &owner).unwrap();
        UserEgress::Deny.fit(&mut spec(Mode::Deny), &owner).unwrap();
        // What an admin says of the user counts, too.
        let network = model::UserNetwork { ceiling: spec(Mode::Allowlist).egress, ..owner.network };
        let limited = User { network, ..owner };
        let refused = UserEgress::Open.fit(&mut spec(Mode::Open), &limited).unwrap_err();
        assert_eq!(refused.kind, Kind::NetworkUnsupported);
    }

    #[test]
    fn a_closed_sandbox_asks_nobody_for_names() {
        let open = spec(Mode::Open);
        let interface =
            |node: UserEgress| node.interface(&record(open.clone()), &policy(&open)).unwrap();
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
            wanted.caps.bytes_per_second = bytes;
            if let (true, Some(egress)) = (range, &mut wanted.egress) {
                egress.cidrs.push("203.0.113.0/24".parse().unwrap());
            }
            // That a public range is open is no exception where everything is.
            let range = range && mode != Mode::Open;
            let possible = mode != Mode::Allowlist && !range && bytes.is_none();
            // Asked for by nobody, open is no more than what there is.
            if !operator && mode == Mode::Open {
                wanted.egress = None;
            }
            prop_assert_eq!(node.nic(&record(wanted.clone()), &policy(&wanted)).is_ok(), possible);
            let fits = node.fit(&mut wanted, &owner()).is_ok();
            prop_assert_eq!(fits, possible);
        }
    }
}
