use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;
use crate::{
    address::Pool,
    egress::{Forbidden, Said, decide, decide_early},
};

fn egress(mode: Mode, hosts: &[&str], cidrs: &[&str]) -> Egress {
    Egress {
        mode,
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        cidrs: cidrs.iter().map(|range| range.parse().unwrap()).collect(),
        outside: Vec::new(),
    }
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn lists_have_in_common_what_both_have() {
    let ceiling =
        egress(Mode::Allowlist, &["*.example.com", "a.test"], &["10.0.0.0/8", "1.1.1.1/32"]);
    let own = egress(
        Mode::Allowlist,
        &["api.example.com", "*.b.example.com", "*.com", "*.test", "evil.test"],
        &["10.5.0.0/16", "192.168.0.0/16", "1.0.0.0/8"],
    );
    let both = own.within(&ceiling);
    assert_eq!(both.mode, Mode::Allowlist);
    assert_eq!(
        texts(&both.hosts),
        ["api.example.com", "*.b.example.com", "*.example.com", "a.test"]
    );
    assert_eq!(texts(&both.cidrs), ["10.5.0.0/16", "1.1.1.1/32"]);
    assert_eq!(both.outside, []);
}

#[test]
fn a_range_of_one_side_alone_opens_nothing_that_is_closed() {
    let own = egress(Mode::Deny, &[], &["10.0.0.0/8", "1.1.1.0/24"]);
    let both = own.within(&Egress::default());
    assert_eq!((both.mode, both.cidrs.len()), (Mode::Deny, 0));
    assert_eq!(texts(&both.outside), ["10.0.0.0/8", "1.1.1.0/24"]);
    let named = egress(Mode::Open, &[], &["10.5.0.0/16"]);
    let both = own.within(&named);
    assert_eq!(texts(&both.cidrs), ["10.5.0.0/16"]);
    assert_eq!(Egress::default().within(&named), Egress::default());
}

#[test]
fn who_said_what_decides_what_is_opened() {
    let own = egress(Mode::Open, &[], &["10.5.0.0/16"]);
    let denied = egress(Mode::Deny, &[], &[]);
    let words = Words { own: Some(&own), ..Words::default() };
    let closed = words.reach().holds;
    assert_eq!((closed.mode, closed.cidrs.len()), (Mode::Open, 0));
    assert_eq!(Words { admin: true, ..words }.reach().holds, own);
    assert_eq!(Words { ceiling: Some(&own), ..words }.reach().holds, own);
    assert_eq!(Words { default: Some(&denied), ..words }.reach().holds, closed);
    let silent = Words { own: None, default: Some(&own), ..Words::default() };
    assert_eq!(silent.reach().holds, own);
    let closed = Words { ceiling: Some(&denied), ..silent }.reach();
    assert_eq!((closed.holds, closed.asked), (denied, own));
    assert_eq!(Words::default().reach(), Reach::default());
}

#[test]
fn a_list_is_parted_by_what_a_ceiling_has() {
    let closed = |range| Forbidden::new(Pool::default(), &[]).touches(range);
    let list = egress(
        Mode::Allowlist,
        &["a.example.com", "*.example.com", "b.test"],
        &["10.5.0.1/32", "1.1.1.1/32"],
    );
    let part = |ceiling: Egress| {
        let (may, may_not) = ceiling.part(list.clone(), closed);
        assert_eq!(may.hosts.len() + may_not.hosts.len(), 3);
        assert_eq!(may.cidrs.len() + may_not.cidrs.len(), 2);
        (texts(&may.hosts), texts(&may.cidrs))
    };
    let some = egress(Mode::Allowlist, &["*.example.com"], &["10.5.0.0/16"]);
    assert_eq!(
        part(some),
        (vec!["a.example.com".into(), "*.example.com".into()], vec!["10.5.0.1/32".into()])
    );
    let (hosts, cidrs) = part(Egress::default());
    assert_eq!((hosts.len(), cidrs), (3, vec!["1.1.1.1/32".to_owned()]));
    assert_eq!(part(egress(Mode::Deny, &[], &[])), (Vec::new(), Vec::new()));
}

fn any_egress() -> impl Strategy<Value = Egress> {
    let mode = prop_oneof![Just(Mode::Open), Just(Mode::Deny), Just(Mode::Allowlist)];
    let hosts = proptest::collection::vec("(\\*\\.)?([ab]\\.)?[ab]\\.test", 0..4);
    let range = prop_oneof![
        (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix)| (Ipv4Addr::from(bits), prefix)),
        (0u8..4, 24u8..=32).prop_map(|(last, prefix)| (Ipv4Addr::new(203, 0, 113, last), prefix)),
        (0u8..4, 8u8..=32).prop_map(|(last, prefix)| (Ipv4Addr::new(10, 0, 0, last), prefix)),
    ];
    let cidrs = proptest::collection::vec(range, 0..4);
    (mode, hosts, cidrs).prop_map(|(mode, hosts, cidrs)| Egress {
        mode,
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        cidrs: cidrs
            .iter()
            .map(|(address, prefix)| Ipv4Net::new_assert(*address, *prefix).into())
            .collect(),
        outside: Vec::new(),
    })
}

fn any_name() -> impl Strategy<Value = String> {
    "([ab]\\.){1,3}test"
}

fn any_address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from),
        (0u8..5).prop_map(|last| Ipv4Addr::new(203, 0, 113, last)),
        (0u8..5).prop_map(|last| Ipv4Addr::new(10, 0, 0, last)),
    ]
}

proptest! {
    #[test]
    fn what_holds_is_never_more_than_either(
        own in any_egress(), ceiling in any_egress(), address in any_address(),
        port in prop_oneof![Just(443), any::<u16>()],
        bound in proptest::collection::vec(any_name(), 0..3),
        said in prop_oneof![
            Just(Said::Nothing), Just(Said::Unknown), Just(Said::Tls(None)),
            any_name().prop_map(|name| Said::Tls(Some(name))), any_name().prop_map(Said::Http),
        ],
    ) {
        let forbidden = Forbidden::new(Pool::default(), &[]);
        let bound: Vec<Arc<str>> = bound.iter().map(|name| name.as_str().into()).collect();
        let to = SocketAddrV4::new(address, port);
        let passes = |egress: &Egress| decide(egress, &forbidden, &bound, to, &said).is_allowed();
        let both = own.within(&ceiling);
        prop_assert!(!passes(&both) || (passes(&own) && passes(&ceiling)), "{both:?}");

        // And not less where both decide by the same: the address, or the host.
        let at_once = |egress: &Egress| {
            decide_early(egress, &forbidden, to).map(|verdict| verdict.is_allowed())
        };
        match (at_once(&own), at_once(&ceiling)) {
            (Some(one), Some(other)) => prop_assert_eq!(at_once(&both), Some(one && other)),
            (None, None) if matches!(said, Said::Tls(Some(_)) | Said::Http(_)) => {
                prop_assert_eq!(passes(&both), passes(&own) && passes(&ceiling));
            }
            _ => {}
        }
        // Whoever of the two says it.
        prop_assert_eq!(passes(&both), passes(&ceiling.within(&own)));
        // What is within stays as it is.
        prop_assert_eq!(passes(&both), passes(&both.within(&ceiling)));
    }

    #[test]
    fn a_name_is_asked_for_only_if_both_allow_it(
        own in any_egress(), ceiling in any_egress(), name in any_name(),
    ) {
        let listed = |egress: &Egress| match egress.mode {
            Mode::Open => true,
            Mode::Deny => false,
            Mode::Allowlist => egress.hosts.iter().any(|host| host.matches(&name)),
        };
        prop_assert_eq!(listed(&own.within(&ceiling)), listed(&own) && listed(&ceiling));
    }

    #[test]
    fn nobody_but_an_admin_opens_what_is_closed(
        own in proptest::option::of(any_egress()), default in proptest::option::of(any_egress()),
        ceiling in proptest::option::of(any_egress()), admin: bool, address in any_address(),
    ) {
        let forbidden = Forbidden::new(Pool::default(), &[]);
        let (own, default, ceiling) = (own.as_ref(), default.as_ref(), ceiling.as_ref());
        let reach = Words { own, default, ceiling, admin }.reach();
        let opens = |egress: Option<&Egress>| {
            egress.is_some_and(|egress| egress.cidrs.iter().any(|range| {
                range.contains(&std::net::IpAddr::V4(address))
            }))
        };
        let to = SocketAddrV4::new(address, 9);
        let passes = decide_early(&reach.holds, &forbidden, to).is_some_and(|v| v.is_allowed());
        if forbidden.contains(address) && passes {
            let by_admin = opens(ceiling)
                || (ceiling.is_none() && (admin || (own.is_none() && opens(default))));
            prop_assert!(by_admin);
        }
    }
}
