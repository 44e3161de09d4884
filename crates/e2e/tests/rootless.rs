//! Daemons that are not root: everything works, and nothing gets out that nobody has opened.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;

use api::{CreateSandbox, EditSandbox, Egress, EgressMode, ErrorCode, Network, Publish, StartFrom};
use e2e::{
    Content, Found, Guest, Machine, Node, ORDINARY, Options, RunAs, create_request, namespace, raw,
    refused, servers::serve, status_field,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const OPEN: &str = "[network]\nuser_egress = 'open'\n";
/// The host's loopback, as guests see it.
const LOOPBACK: &str = "10.0.2.2";
const PORT: u16 = 7777;

fn ordinary(config: &'static str, machine: Option<Machine>) -> Node {
    Node::with(&Options { run_as: RunAs::User, config, machine, ..Options::default() })
}

fn egress(mode: EgressMode) -> Option<Egress> {
    Some(Egress { mode, allow_hosts: Vec::new(), allow_cidrs: Vec::new() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_has_the_life_that_it_has_with_root() {
    let mut node = ordinary("[public]\nlisten = '127.0.0.1:0'\n", None);
    let mut guest = Guest::create(&node, "dev").await;
    let content = Content::plant(&mut guest).await;
    assert_eq!(guest.view().await.ip.as_deref(), Some("10.0.2.15"));
    guest.stop().await;
    assert!(node.monitors().iter().all(|(_, of)| *of != guest.id));
    content.check(&mut guest, Found::Everything, "after a stop").await;
    // Adopted by the next daemon, also after one that was killed.
    node.restart();
    let mut guest = guest.by(node.admin());
    content.check(&mut guest, Found::Everything, "after a restart").await;
    node.kill9();
    node.restart();
    let mut guest = guest.by(node.admin());
    content.check(&mut guest, Found::Everything, "after a crash").await;

    let mut copies = guest.fork("copy", 2, || node.admin()).await;
    guest.checkpoint("snap").await;
    copies.push(Guest::resumed(node.admin(), "snap", "resumed").await);
    let address = "cat /sys/class/net/eth0/address";
    let mut addresses = vec![guest.sh(address).await];
    for copy in &mut copies {
        content.check(copy, Found::Everything, "in a copy").await;
        addresses.push(copy.sh(address).await);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "{addresses:?}");

    serve(&mut guest, 8000).await;
    let mut tunnel = guest.client.tunnel(&guest.id, 8000).await.unwrap();
    tunnel.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");
    let publish = Publish { port: 8000, alias: Some("web".to_owned()), ..Publish::default() };
    guest.client.publish(&guest.id, &publish).await.unwrap();
    let answer = raw::tcp(node.public(), "GET", "/web/index.html", &[]).await;
    assert_eq!(answer.status, 200);

    guest.stop().await;
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    content.check(&mut guest, Found::Disk, "after a boot").await;
    assert!(node.said("running without root"));
}

#[tokio::test]
async fn a_monitor_of_a_user_has_no_power_and_sees_none_of_their_files() {
    for config in ["", OPEN] {
        let node = ordinary(config, None);
        let guests = [Guest::create(&node, "a").await, Guest::create(&node, "b").await];
        for guest in &guests {
            let pid = node.monitor(&guest.id);
            let own = ORDINARY.to_string();
            assert!(status_field(pid, "Uid").split_whitespace().all(|id| id == own));
            assert_eq!(status_field(pid, "Groups"), "");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status_field(pid, set), "0000000000000000", "{set}");
            }
            assert_eq!(status_field(pid, "NoNewPrivs"), "1");
            assert_eq!(status_field(pid, "Seccomp"), "2", "no filter");
            let monitor = pid.to_string();
            let closed = if config == OPEN { &[][..] } else { &["net"][..] };
            for kind in ["user", "mnt", "ipc", "uts"].iter().chain(closed) {
                assert_ne!(namespace(&monitor, kind), namespace("self", kind), "{kind}");
            }
            for covered in [node.data().to_str().unwrap(), "/tmp", "/root", "/home", "/run"] {
                let seen = std::fs::read_dir(format!("/proc/{pid}/root{covered}"));
                let names: Vec<_> = seen.into_iter().flatten().collect();
                assert!(names.is_empty(), "{covered} shows {names:?}");
            }
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            for (limit, value) in [("Max core file size", "0"), ("Max data size", "2281701376")] {
                let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
                assert_eq!(line.split_whitespace().nth(limit.split(' ').count()), Some(value));
            }
        }
        let users =
            guests.iter().map(|guest| namespace(&node.monitor(&guest.id).to_string(), "user"));
        let users: Vec<_> = users.collect();
        assert_ne!(users[0], users[1], "one could look into the other");
    }
}

#[tokio::test]
async fn where_users_may_make_no_namespaces_that_is_said_and_everything_else_holds() {
    let run_as = RunAs::UserWithoutNamespaces;
    let node = Node::with(&Options { run_as, ..Options::default() });
    assert!(node.said("WITHOUT namespaces"));
    let doctor = String::from_utf8(node.cli(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("NONE without root"), "{doctor}");
    let mut guest = Guest::create(&node, "dev").await;
    let pid = node.monitor(&guest.id);
    assert_eq!(namespace(&pid.to_string(), "user"), namespace("self", "user"));
    assert_eq!(status_field(pid, "NoNewPrivs"), "1");
    assert_eq!(status_field(pid, "Seccomp"), "2", "no filter");
    let content = Content::plant(&mut guest).await;
    guest.stop().await;
    content.check(&mut guest, Found::Everything, "after a stop").await;
    let (said, _) = greeted(&mut guest).await;
    assert!(said.contains("refused"), "{said}");
}

/// A machine with somebody who greets on its loopback, and how often somebody came.
async fn greeting() -> (Machine, tokio::task::JoinHandle<()>) {
    let machine = Machine::new();
    let listener = machine.listen(&format!("127.0.0.1:{PORT}"));
    let greeter = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"welcome\n").await;
                // Until the other side has gone.
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
    (machine, greeter)
}

/// What it is greeted with, and within how many seconds.
async fn greeted(guest: &mut Guest) -> (String, f64) {
    let now = "cut -d ' ' -f 1 /proc/uptime";
    let said = guest
        .sh(&format!("{now}; timeout 20 nc {LOOPBACK} {PORT} </dev/null 2>&1 | head -n 1; {now}"))
        .await;
    let lines: Vec<&str> = said.lines().collect();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    let took = last.parse::<f64>().unwrap() - first.parse::<f64>().unwrap();
    (lines[1..lines.len() - 1].join(" "), took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_closed_reaches_nothing_that_who_is_open_reaches() {
    let (machine, _greeter) = greeting().await;
    assert!(machine.reaches(SocketAddr::from(([127, 0, 0, 1], PORT))));
    let node = ordinary(OPEN, Some(machine.clone()));
    let mut open = Guest::create(&node, "open").await;
    assert_eq!(greeted(&mut open).await.0, "welcome");
    open.stop().await;
    assert_eq!(greeted(&mut open).await.0, "welcome", "after a wake");
    let mut copy = open.fork("copy", 1, || node.admin()).await.remove(0);
    assert_eq!(greeted(&mut copy).await.0, "welcome", "in a copy");
    let shown = String::from_utf8(node.cli(&["network", "status"]).stdout).unwrap();
    assert!(shown.starts_with("mode user") && shown.contains("own services"), "{shown}");

    let deny = CreateSandbox { egress: egress(EgressMode::Deny), ..create_request("deny") };
    let none = CreateSandbox { network: Some(Network::None), ..create_request("none") };
    let closed = ordinary("", Some(machine));
    let mut guests = vec![
        Guest::create_by(node.admin(), deny).await,
        Guest::create_by(node.admin(), none).await,
        Guest::create(&closed, "default").await,
    ];
    assert_eq!(guests[1].view().await.ip, None);
    assert_eq!(guests[2].view().await.egress.unwrap().mode, EgressMode::Deny);
    // Whatever root in there does about it.
    let try_hard = "ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2; true";
    guests[1].root(&format!("({try_hard}) 2>/dev/null")).await;
    for guest in &mut guests {
        for moment in ["at first", "after a wake"] {
            let (said, took) = greeted(guest).await;
            assert!(said.contains("refused"), "{moment}: {said}");
            assert!(took < 5.0, "{moment}: it took {took} s");
            guest.stop().await;
        }
    }
    // A name is refused at once, too.
    let (now, ask) = ("cut -d ' ' -f 1 /proc/uptime", "nslookup example.com >/dev/null 2>&1");
    let said = guests[2].sh(&format!("{now}; {ask}; {now}")).await;
    let times: Vec<f64> = said.lines().map(|line| line.parse().unwrap()).collect();
    assert!(times[1] - times[0] < 5.0, "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_a_stop_and_is_told_so() {
    let (machine, _greeter) = greeting().await;
    let node = ordinary(OPEN, Some(machine));
    let mut guest = Guest::create(&node, "dev").await;
    let talk =
        format!("(while :; do echo w; usleep 100000; done) | nc {LOOPBACK} {PORT}; echo over");
    guest.detach(&e2e::sh(&format!("({talk}) > /tmp/heard 2>&1"))).await;
    guest.sh("until grep -q welcome /tmp/heard; do usleep 1000; done").await;
    guest.stop().await;
    guest.sh("until grep -q over /tmp/heard; do usleep 1000; done").await;
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused() {
    let node = ordinary("", None);
    let mut guest = Guest::create(&node, "dev").await;
    let list = Egress {
        mode: EgressMode::Allowlist,
        allow_hosts: vec!["a.example".to_owned()],
        allow_cidrs: Vec::new(),
    };
    let range = Egress {
        mode: EgressMode::Deny,
        allow_hosts: Vec::new(),
        allow_cidrs: vec!["203.0.113.0/24".to_owned()],
    };
    for wanted in [egress(EgressMode::Open), Some(list), Some(range)] {
        let request = CreateSandbox { egress: wanted, ..create_request("other") };
        let body = refused(node.admin().create(&request, drop).await);
        assert_eq!(body.code, ErrorCode::NetworkUnsupported);
        assert!(body.hint.is_some(), "{body:?}");
    }
    let edit = EditSandbox { egress: egress(EgressMode::Deny), ..EditSandbox::default() };
    let body = refused(guest.client.edit(&guest.id, &edit).await);
    assert_eq!(body.code, ErrorCode::NetworkUnsupported);
    for mode in ["nat", "isolated"] {
        let outcome = node.cli(&["serve", "--listen", "none", "--network", mode]);
        let said = String::from_utf8(outcome.stderr).unwrap();
        assert!(!outcome.status.success() && said.contains("need root"), "{said}");
    }
    let doctor = String::from_utf8(node.cli(&["doctor"]).stdout).unwrap();
    assert_eq!(doctor.lines().filter(|line| line.contains("without root")).count(), 5, "{doctor}");
    assert!(doctor.contains("no way out"), "{doctor}");
}

#[tokio::test]
async fn what_users_and_root_record_is_never_the_other_s() {
    let mut node = ordinary("", None);
    let mut guest = Guest::create(&node, "dev").await;
    let content = Content::plant(&mut guest).await;
    guest.stop().await;
    let recorded =
        |node: &Node| std::fs::read_dir(node.data().join("templates/keys")).unwrap().count();
    assert_eq!(recorded(&node), 1);
    node.restart_as(RunAs::Root);
    let mut guest = guest.by(node.admin());
    let body = refused(guest.start(None).await);
    assert_eq!(body.code, ErrorCode::SnapshotIncompatible);
    assert!(body.error.contains("network user"), "{body:?}");
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    content.check(&mut guest, Found::Disk, "as root").await;
    Guest::create(&node, "own").await;
    assert_eq!(recorded(&node), 2);
}
