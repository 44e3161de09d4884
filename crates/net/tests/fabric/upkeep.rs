//! Other people's rules, and our own when somebody has changed them.

use std::net::Ipv4Addr;

use net::{
    address::Pool,
    fabric::{Finding, Known, Networks, Problem, Uplink, usable},
};
use rtnetlink::{LinkBridge, LinkUnspec};

use crate::rig::{
    self, INTERNET, Machine, PORT, World, guest, inside, link_addresses, networks, nft, on_a_host,
    place, settings,
};

/// What Docker sets, as far as it matters here.
fn set_docker_rules() {
    for line in [
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        "add chain ip filter DOCKER-USER",
        "add rule ip filter DOCKER-USER counter return",
        "add rule ip filter FORWARD counter jump DOCKER-USER",
    ] {
        nft(line);
    }
}

#[test]
fn docker_is_respected_and_left_as_it_was() {
    on_a_host(|| async {
        let world = World::new().await;
        set_docker_rules();
        nft("add table ip nat");
        nft("add chain ip nat PREROUTING { type nat hook prerouting priority -100 ; }");
        // A container's port, published on all of the host's addresses.
        nft(
            "add rule ip nat PREROUTING fib daddr type local udp dport 8080 dnat to 192.168.50.9:7000",
        );
        let before = nft("list ruleset");
        let networks = networks("a", Uplink::Host).await;
        assert!(networks.drift().await.unwrap().is_empty());
        let guest = guest(&networks, 0, 2).await;
        guest.say((rig::HOST[0], 8080), b"evil");
        world.round_trip(&guest, "hello");
        world.assert_quiet();
        // Set once, however often.
        nft("add rule ip filter DOCKER-USER drop");
        assert!(networks.repair().await.unwrap().is_empty());
        let again = Networks::open(
            settings("a", Uplink::Host),
            Known { networks: vec![Pool::default().user(0)], policies: Vec::new() },
            Some(networks.namespace().try_clone_to_owned().unwrap()),
        );
        let again = again.await.unwrap();
        assert_eq!(nft("list ruleset").matches("bhatti a").count(), 2);
        drop(networks);
        again.close().await.unwrap();
        let handle = nft("-a list chain ip filter DOCKER-USER");
        let handle = handle.lines().find(|line| line.trim().starts_with("drop")).unwrap();
        let handle = handle.rsplit(' ').next().unwrap().to_owned();
        nft(&format!("delete rule ip filter DOCKER-USER handle {handle}"));
        let count = |text: &str| {
            text.lines()
                .filter(|line| !line.contains("counter"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(count(&nft("list ruleset")), count(&before));
    });
}

#[test]
fn a_closed_host_is_told_and_not_touched() {
    on_a_host(|| async {
        nft("add table inet ufw");
        nft("add chain inet ufw forward { type filter hook forward priority 0 ; policy drop ; }");
        let networks = networks("a", Uplink::Host).await;
        let chain = "inet ufw forward".to_owned();
        assert_eq!(networks.drift().await.unwrap(), [Finding::ForwardClosed { chain }]);
        assert!(!networks.repair().await.unwrap()[0].mendable());
        assert!(nft("list table inet ufw").contains("policy drop"));
        networks.close().await.unwrap();
    });
}

#[test]
fn two_daemons_do_not_meet_and_nothing_is_left_of_them() {
    on_a_host(|| async {
        let world = World::new().await;
        let (rules, links) = (nft("list ruleset"), rig::interfaces());
        let one = networks("one", Uplink::Host).await;
        let two = networks("two", Uplink::Host).await;
        let (of_one, of_two) = (guest(&one, 0, 2).await, guest(&two, 1, 2).await);
        for target in link_addresses("butwo").await {
            let own = Ipv4Addr::from(u32::from(target) + 1);
            for target in [target, own] {
                of_one.say((target, PORT), b"evil");
                of_one.ping(target);
            }
        }
        world.round_trip(&of_one, "one");
        world.round_trip(&of_two, "two");
        world.assert_quiet();
        one.close().await.unwrap();
        world.round_trip(&of_two, "still there");
        two.close().await.unwrap();
        assert_eq!(nft("list ruleset"), rules);
        assert_eq!(rig::interfaces(), links);
    });
}

#[test]
fn without_an_uplink_nothing_is_in_the_host() {
    on_a_host(|| async {
        let (rules, links) = (nft("list ruleset"), rig::interfaces());
        let networks = networks("a", Uplink::None).await;
        assert!(networks.drift().await.unwrap().is_empty());
        assert_eq!((nft("list ruleset"), rig::interfaces()), (rules, links));
        networks.close().await.unwrap();
    });
}

#[test]
fn a_lan_keeps_its_range() {
    on_a_host(|| async {
        let lan = Machine::new();
        lan.join("lan0", "10.208.4.1/24".parse().unwrap(), "10.208.4.2/24".parse().unwrap()).await;
        rig::route("10.208.8.0/23".parse().unwrap(), "10.208.4.2".parse().unwrap()).await;
        rig::route("100.64.0.0/10".parse().unwrap(), "10.208.4.2".parse().unwrap()).await;
        rig::route("0.0.0.0/0".parse().unwrap(), "10.208.4.2".parse().unwrap()).await;
        let networks =
            Networks::open(settings("a", Uplink::Host), Known::default(), None).await.unwrap();
        let free = usable(Pool::default(), &networks.used_by_host().await.unwrap());
        assert_eq!([0, 1, 2, 3].map(free), [true, false, false, true]);
        assert!(link_addresses("bua").await[0].octets()[..2] == [10, 255]);
        networks.add_network(Pool::default().user(1)).await.unwrap();
        let findings = networks.drift().await.unwrap();
        assert!(matches!(findings[..], [Finding::RangeTaken { .. }, ..]), "{findings:?}");
        networks.close().await.unwrap();
    });
}

#[test]
fn what_was_changed_by_hand_is_found_and_mended() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        world.round_trip(&one, "before");
        let namespace = networks.namespace().try_clone_to_owned().unwrap();
        let own = |words: &'static str| {
            inside(&namespace, move || drop(nft(words)));
        };
        let harm: [(&str, &dyn Fn()); 9] = [
            ("the whole of the nftables table inet bhatti", &|| own("delete table inet bhatti")),
            ("set places", &|| {
                own(
                    "delete element bridge bhatti places { \"bt0-2\" . 02:bb:00:00:00:02 . 10.208.0.2 }",
                );
            }),
            ("the rules in chain forward", &|| own("insert rule inet bhatti forward accept")),
            ("set restricted", &|| own("add element inet bhatti restricted { 10.208.0.2 }")),
            ("inet other", &|| own("add table inet other")),
            ("inet bhatti_a", &|| drop(nft("flush chain inet bhatti_a input"))),
            ("ip_forward", &|| {
                fs_err::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            }),
            ("rp_filter", &|| {
                inside(&namespace, || {
                    fs_err::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
                });
            }),
            ("disable_ipv6", &|| {
                inside(&namespace, || {
                    fs_err::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0").unwrap();
                });
            }),
        ];
        for (what, harm) in harm {
            harm();
            mended(&networks, what).await;
            world.round_trip(&one, "after");
        }
        one.send(&one.bridged(&two, b"still").frame());
        two.until(b"still");
        networks.close().await.unwrap();
    });
}

/// There is something wrong that is said with these words, and nothing after it was mended.
async fn mended(networks: &Networks, what: &str) {
    let found = networks.repair().await.unwrap();
    assert!(found.iter().any(|finding| finding.to_string().contains(what)), "{what}: {found:?}");
    assert!(found.iter().all(Finding::mendable), "{found:?}");
    let left = networks.drift().await.unwrap();
    assert!(left.is_empty(), "{what}: {left:?}");
}

#[test]
fn links_that_were_changed_by_hand_are_mended() {
    on_a_host(|| async {
        let world = World::new().await;
        let networks = networks("a", Uplink::Host).await;
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        let namespace = networks.namespace().try_clone_to_owned().unwrap();
        let runtime = tokio::runtime::Handle::current();
        let own = inside(&namespace, || {
            let _runtime = runtime.enter();
            rig::netlink()
        });
        let index = async |name: &str| rig::index(&own, name).await;
        let check = async |what: &str| {
            mended(&networks, what).await;
            world.round_trip(&one, "after");
            one.send(&one.bridged(&two, b"still").frame());
            two.until(b"still");
        };
        own.link().del(index("bb0").await).execute().await.unwrap();
        check("bb0 is missing").await;
        let off = LinkUnspec::new_with_name("bt0-2").nocontroller().build();
        own.link().set(off).execute().await.unwrap();
        check("bt0-2 was changed").await;
        let down = LinkUnspec::new_with_name("bb0").down().build();
        own.link().set(down).execute().await.unwrap();
        check("bb0 was changed").await;
        let learning =
            LinkBridge::new("bb0").no_linklocal_learn(false).mcast_snooping(true).build();
        own.link().change(learning).execute().await.unwrap();
        check("bb0 was changed").await;
        let more = own.address().add(index("bb0").await, [192, 168, 1, 1].into(), 24);
        more.execute().await.unwrap();
        check("bb0 should have the address 10.208.0.1/22").await;
        let out = rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(link_addresses("bua").await[0])
            .build();
        own.route().del(out).execute().await.unwrap();
        check("default route").await;
        rig::netlink()
            .link()
            .del(rig::index(&rig::netlink(), "bua").await)
            .execute()
            .await
            .unwrap();
        check("bua is missing").await;
        let stranger = LinkBridge::new("stranger").up().build();
        own.link().add(stranger).execute().await.unwrap();
        check("stranger should not be there").await;
        networks.close().await.unwrap();
    });
}

#[test]
fn a_removed_network_is_gone_and_can_come_back() {
    on_a_host(|| async {
        let networks = networks("a", Uplink::None).await;
        let network = Pool::default().user(0);
        networks.remove_network(network).await.unwrap();
        networks.remove_network(network).await.unwrap();
        assert!(networks.attach(place(0, 2)).await.is_err());
        assert!(networks.drift().await.unwrap().is_empty());
        networks.add_network(network).await.unwrap();
        networks.add_network(network).await.unwrap();
        assert!(networks.drift().await.unwrap().is_empty());
        let (one, two) = (guest(&networks, 0, 2).await, guest(&networks, 0, 3).await);
        one.send(&one.bridged(&two, b"hello").frame());
        two.until(b"hello");
        let missing = Finding::Link { name: "x".into(), problem: Problem::Missing };
        assert_eq!(missing.to_string(), "interface x is missing");
        one.say((INTERNET, PORT), b"nowhere to go");
    });
}
