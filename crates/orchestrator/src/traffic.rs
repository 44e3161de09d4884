//! What holds for a sandbox's traffic, from what its owner and an admin say.

use net::{
    fabric::Caps,
    policy::{Egress, Mode, Reach, Words},
};

use crate::model::{NetworkSpec, User};

/// What a sandbox of this user may reach and how fast. Nothing if there is no such user.
pub fn holds(network: &NetworkSpec, user: Option<&User>) -> (Reach, Caps) {
    let Some(user) = user else {
        return (Egress { mode: Mode::Deny, ..Egress::default() }.into(), network.caps);
    };
    let words = Words {
        own: network.egress.as_ref(),
        default: user.network.default.as_ref(),
        ceiling: user.network.ceiling.as_ref(),
        admin: user.admin,
    };
    (words.reach(), network.caps.within(user.network.caps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{UserLimits, UserNetwork},
        store::Store,
    };

    #[tokio::test]
    async fn the_least_of_both_holds_and_the_default_where_nothing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        let (user, _) = store.create_user("u", false, UserLimits::default()).await.unwrap();
        let deny = Egress { mode: Mode::Deny, ..Egress::default() };
        let caps = |bytes, packets| Caps { bytes_per_second: bytes, packets_per_second: packets };
        let network = UserNetwork {
            default: Some(deny.clone()),
            caps: caps(Some(9), None),
            ..user.network.clone()
        };
        let limited = User { network, ..user.clone() };
        let said = NetworkSpec {
            isolated: false,
            egress: Some(Egress::default()),
            caps: caps(Some(20), Some(3)),
        };
        let (reach, least) = holds(&said, Some(&limited));
        assert_eq!((reach.holds.mode, least), (Mode::Open, caps(Some(9), Some(3))));
        let silent = NetworkSpec { egress: None, ..said };
        assert_eq!(holds(&silent, Some(&limited)).0.holds, deny);
        assert_eq!(holds(&silent, Some(&user)).0.holds, Egress::default());
        let network = UserNetwork { ceiling: Some(deny.clone()), ..UserNetwork::default() };
        assert_eq!(holds(&said, Some(&User { network, ..user })).0.holds, deny);
        assert_eq!(holds(&said, None).0.holds, deny);
    }
}
