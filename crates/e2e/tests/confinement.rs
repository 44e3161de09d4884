//! What a monitor may do and see, looked at from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use e2e::{Guest, Node, descriptors, namespace, status_field};

/// The first user id that a monitor may have.
const FIRST_UID: u32 = 600_000;

#[tokio::test]
async fn a_monitor_has_a_user_of_its_own_and_no_power() {
    let node = Node::start();
    let mut uids = BTreeSet::new();
    for name in ["a", "b"] {
        let guest = Guest::create(&node, name).await;
        let pid = node.monitor(&guest.id);
        let ids: Vec<u32> = ["Uid", "Gid"]
            .iter()
            .flat_map(|field| {
                let text = status_field(pid, field);
                text.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
            })
            .collect();
        assert!(ids[0] >= FIRST_UID && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert!(uids.insert(ids[0]), "two monitors share {}", ids[0]);
        assert_eq!(status_field(pid, "Groups"), "");
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        for task in tasks.map(|task| task.unwrap().file_name().to_string_lossy().into_owned()) {
            let task = task.parse().unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status_field(task, set), "0000000000000000", "{set}");
            }
            assert_eq!(status_field(task, "NoNewPrivs"), "1");
            assert_eq!(status_field(task, "Seccomp"), "2", "no filter");
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}

#[tokio::test]
async fn a_monitor_sees_neither_data_nor_processes_nor_networks() {
    let node = Node::start();
    let guests = [Guest::create(&node, "a").await, Guest::create(&node, "b").await];
    for guest in &guests {
        let pid = node.monitor(&guest.id);
        for kind in ["mnt", "net", "ipc", "uts"] {
            assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
        }
        for covered in [node.data().to_str().unwrap(), "/tmp", "/root", "/home", "/run"] {
            let seen = std::fs::read_dir(format!("/proc/{pid}/root{covered}"));
            let names: Vec<_> = seen.into_iter().flatten().collect();
            assert!(names.is_empty(), "{covered} shows {names:?}");
        }
        let net = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
        let interfaces: Vec<&str> =
            net.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
        assert_eq!(interfaces, ["lo"]);

        let own = format!("sandboxes/{}/", guest.id);
        let open = descriptors(pid);
        let writable = open.iter().filter(|path| path.contains("/sandboxes/"));
        assert!(writable.clone().count() > 0, "{open:?}");
        assert!(writable.clone().all(|path| path.contains(&own)), "{open:?}");
        for forbidden in ["state.db", "admin.key", "daemon.lock", "/dev/kvm", "api.sock"] {
            assert!(!open.iter().any(|path| path.contains(forbidden)), "{forbidden}: {open:?}");
        }
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let names: BTreeSet<String> = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.split(|byte| *byte == b'=').next())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .filter(|name| !name.is_empty())
            .collect();
        assert_eq!(names, ["BHATTI_VM", "LC_ALL", "PATH"].map(str::to_owned).into());
    }
}

#[tokio::test]
async fn a_monitor_is_limited_as_far_as_the_host_can() {
    let node = Node::start();
    let guest = Guest::create(&node, "dev").await;
    let pid = node.monitor(&guest.id);
    let groups = node.groups();
    if groups.is_empty() {
        eprintln!("SKIPPED: this host lets nobody make control groups, so there are no limits");
        return;
    }
    let mut limits = BTreeSet::new();
    for group in &groups {
        assert!(group.to_string_lossy().ends_with(&guest.id), "{}", group.display());
        let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert!(members.lines().any(|line| line == pid.to_string()), "{}", group.display());
        for (file, limit) in [
            ("memory.limit_in_bytes", "memory"),
            ("memory.max", "memory"),
            ("cpu.cfs_quota_us", "cpu"),
            ("cpu.max", "cpu"),
            ("pids.max", "pids"),
        ] {
            if let Ok(text) = std::fs::read_to_string(group.join(file)) {
                let value: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
                // What the kernel shows for no limit is larger than any of them.
                assert!((1..1 << 40).contains(&value), "{file} is {text}");
                limits.insert(limit);
            }
        }
    }
    assert!(limits.contains("memory") && limits.contains("pids"), "{limits:?} in {groups:?}");
}

#[tokio::test]
async fn a_guest_finds_its_own_interface_and_no_way_to_the_daemon() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    // Whatever else the kernel has by itself has no address.
    let addresses = guest.sh("ip -4 -o addr show | awk '{ print $2, $4 }'").await;
    let own = format!("eth0 {}/22", guest.view().await.ip.unwrap());
    assert_eq!(addresses.lines().collect::<Vec<_>>(), ["lo 127.0.0.1/8", &own]);
    let gateway = guest.sh("ip route | awk '/^default/ { print $3 }'").await;
    for host in ["127.0.0.1", &gateway] {
        let url = format!("http://{host}:{}/health", node.tcp().port());
        let ask = format!("wget -q -T 2 -O- {url} 2>/dev/null || echo none");
        assert_eq!(guest.root(&ask).await, "none", "{url}");
    }
    // The agent's ports are there, and closed to commands whether the user's or root's.
    let ports =
        "for p in /dev/vport*; do [ -e $p ] || exit 9; cat $p 2>/dev/null && exit 1; done; exit 0";
    guest.sh(ports).await;
    guest.root(ports).await;
    assert_eq!(guest.sh("echo unharmed").await, "unharmed");
}
