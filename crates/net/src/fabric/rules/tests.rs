use ipnet::Ipv4Net;

use super::*;
use crate::{
    address::Pool,
    fabric::settings::{Known, Uplink},
};

fn settings() -> Settings {
    let forbidden = vec!["203.0.113.77/24".parse().unwrap()];
    let (tag, pool) = ("t".to_owned(), Pool::default());
    Settings { tag, pool, uplink: Uplink::Host, proxy_port: 3129, forbidden, tracked: Some(65_536) }
}

#[test]
fn the_hosts_table_is_about_our_link_only() {
    let range = UplinkRange(Ipv4Net::new_assert([100, 127, 0, 4].into(), 30));
    let mut plan = Plan::new(settings(), Known::default());
    plan.closed = Some(vec!["eth0".into(), "eth1".into()]);
    assert_eq!(
        host(&plan, range),
        r#"add table inet bhatti_t
delete table inet bhatti_t
table inet bhatti_t {
    set shares { type inet_service; size 64; flags dynamic; }
    set closed { type ifname; elements = { "eth0", "eth1" }; }
    chain input {
        type filter hook input priority filter; policy accept;
        iifname != "but" return
        ct state established,related accept
        drop
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname @closed oifname @closed ct state new drop
        oifname "but" ct state established,related accept
        oifname "but" drop
        iifname != "but" return
        meta nfproto ipv6 drop
        ip saddr != 100.127.0.4/30 drop
        ct status dnat drop
        ct state new meta l4proto != { tcp, udp } limit rate over 50/second burst 200 packets drop
        ct state new meta l4proto { tcp, udp } add @shares { th sport & 63 ct count over 512 } drop
    }
    chain translate {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 100.127.0.4/30 oifname != "but" masquerade
    }
}
"#
    );
}

#[test]
fn ranges_of_the_settings_are_forbidden_and_braces_match() {
    let networks = vec![Pool::default().user(3)];
    let text = namespace(&Plan::new(settings(), Known { networks, policies: Vec::new() }));
    assert!(text.contains("240.0.0.0/4, 203.0.113.0/24 }"));
    assert!(text.contains("add element inet bhatti gateways { \"bb3\" . 10.208.12.1 }"));
    assert_eq!(text.matches("\"bt3-").count(), 1021);
    assert_eq!(text.matches('{').count(), text.matches('}').count());
}

/// Every private range is forbidden, so no pool can be without protection.
#[test]
fn every_pool_is_forbidden() {
    for pool in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"] {
        assert!(FORBIDDEN.iter().any(|range| range.to_string() == pool), "{pool}");
        assert!(Pool::new(pool.parse().unwrap()).is_ok());
    }
}
