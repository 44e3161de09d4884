use vmm::accel::Verdict;

use super::*;
use crate::commands::{
    doctor::{
        facts::{Image, Kernel, Rootless},
        host::Memory,
    },
    host_tools::{APT_GET, MKE2FS, MKFS_EROFS, MMDEBSTRAP, NFT},
};

fn verdict(accelerator: Accelerator, reason: &str) -> Verdict {
    Verdict { accelerator, reason: reason.to_owned(), tsc_khz: None }
}

/// A host on which there is nothing to say.
fn good() -> Facts {
    Facts {
        root: true,
        architecture: "x86_64",
        qemu: Ok("7.2.1".into()),
        kvm: KvmDevice::Opens,
        accelerator: Some(verdict(Accelerator::Kvm, "it booted")),
        missing_runtime_tools: Vec::new(),
        missing_preparation_tools: Vec::new(),
        kernel: Ok(Kernel { id: "0123".into(), release: "6.1.0".into(), size_mb: 40 }),
        images: Ok(vec![Image { name: "minimal".into(), size_mb: 200 }]),
        verified: false,
        data_dir: DataDir {
            path: "/var/lib/bhatti".into(),
            exists: true,
            free_bytes: 100 * GIB,
            file_system: "ext4".into(),
            reflinks: Some(false),
        },
        limits: ALL_LIMITS.to_vec(),
        network_namespace: Ok(()),
        missing_network_tools: Vec::new(),
        taps: Ok(()),
        networks: Networks::Made(Vec::new()),
        certificates: None,
        backups: None,
        network_mode: Some((api::NetworkMode::Nat, None)),
        rootless: Rootless { namespaces: Ok(()), user_network: true },
        forwards_for_anybody: false,
        seccomp: true,
        memory: Memory { total_bytes: 8 * GIB, available_bytes: 6 * GIB, overcommit: 0 },
        merges_pages: false,
        open_files: 65536,
        daemon: Daemon::Runs { version: "1.0.0".into() },
        version: "1.0.0",
    }
}

/// The one finding that is not ok, with what it says.
fn only_finding(facts: &Facts) -> (&'static str, Status, String) {
    let mut findings = all(facts);
    findings.retain(|finding| finding.status != Status::Ok);
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    let hint = finding.hint.clone().unwrap_or_default();
    (finding.check, finding.status, format!("{} / {hint}", finding.found))
}

/// Asserts that exactly this is found, with these words in finding or hint.
fn finds(facts: &Facts, check: &str, status: Status, words: &str) {
    let (found, how_bad, text) = only_finding(facts);
    assert_eq!((found, how_bad), (check, status), "{text}");
    assert!(text.contains(words), "{text}");
}

#[test]
fn what_networks_need_and_what_is_wrong_with_them_is_said() {
    let missing = Facts { missing_network_tools: vec![NFT], ..good() };
    finds(&missing, "network tools", Status::Fail, "apt-get install nftables");
    let closed = Facts { taps: Err("no such file".into()), ..good() };
    finds(&closed, "network tools", Status::Fail, "modprobe tun");
    let found = |mendable| Networks::Made(vec![("bb0 is missing".into(), mendable)]);
    let broken = Facts { networks: found(true), ..good() };
    finds(&broken, "networks", Status::Warn, "bb0 is missing / bhatti network repair");
    finds(&Facts { networks: found(false), ..good() }, "networks", Status::Warn, "networking.md");
    let open = Facts { forwards_for_anybody: true, ..good() };
    finds(&open, "forwarding", Status::Warn, "ip_forward");
}

/// What is not ok on a host on which there is nothing else to say than that the daemon is not root.
fn without_root(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = Facts { root: false, network_mode: None, ..good() };
    // What only root can do is not asked for.
    facts.network_namespace = Err("no".into());
    facts.taps = Err("no".into());
    facts.limits.clear();
    change(&mut facts);
    let mut findings = all(&facts);
    findings.retain(|finding| finding.status != Status::Ok);
    findings
}

#[test]
fn everything_that_differs_without_root_is_said_and_none_of_it_is_a_failure() {
    let findings = without_root(|_| ());
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(checks, ["cgroup limits", "namespaces", "networks"]);
    for Finding { status, found, hint, .. } in &findings {
        assert!(*status == Status::Warn && found.contains("without root") && hint.is_some());
    }
    let mode = |egress| {
        let findings = without_root(|facts| {
            facts.network_mode = Some((api::NetworkMode::User, Some(egress)));
        });
        findings.last().unwrap().found.clone()
    };
    assert!(mode(api::EgressMode::Open).contains("own services"));
    assert!(mode(api::EgressMode::Deny).contains("no way out"));
    let bare = without_root(|facts| facts.rootless.namespaces = Err("not permitted".into()));
    assert!(bare[1].found.contains("NONE") && bare[1].found.contains("not permitted"));
    let lacking = without_root(|facts| facts.rootless.user_network = false);
    let failed = lacking.iter().find(|finding| finding.status == Status::Fail).unwrap();
    assert_eq!(failed.check, "network tools");
}

#[test]
fn a_good_host_has_nothing_to_be_hinted_at() {
    for finding in all(&good()) {
        assert_eq!((finding.status, &finding.hint), (Status::Ok, &None), "{finding:?}");
    }
}

#[test]
fn what_keeps_sandboxes_from_running_is_a_failure() {
    use Status::Fail;
    finds(&Facts { architecture: "riscv64", ..good() }, "processor", Fail, "riscv64");
    let missing = Facts { qemu: Err("qemu is not installed".into()), ..good() };
    finds(&missing, "qemu", Fail, "apt-get install");
    let missing = Facts { missing_runtime_tools: vec![MKE2FS], ..good() };
    finds(&missing, "disk tools", Fail, "apt-get install e2fsprogs");
    let problem = Problem { message: "there is no kernel yet".into(), hint: Some("do".into()) };
    finds(&Facts { kernel: Err(problem), ..good() }, "kernel", Fail, "no kernel yet / do");
    finds(&Facts { images: Ok(Vec::new()), ..good() }, "images", Fail, "image prepare");
    finds(&Facts { network_namespace: Err("EPERM".into()), ..good() }, "namespaces", Fail, "EPERM");
    finds(&Facts { seccomp: false, ..good() }, "seccomp", Fail, "CONFIG_SECCOMP_FILTER");
}

#[test]
fn what_makes_sandboxes_worse_is_a_warning() {
    use Status::Warn;
    finds(&Facts { kvm: KvmDevice::Refused("no".into()), ..good() }, "/dev/kvm", Warn, "no");
    let tcg = verdict(Accelerator::Tcg, "it hung");
    finds(&Facts { accelerator: Some(tcg), ..good() }, "accelerator", Warn, "tcg: it hung");
    let tools = vec![MKFS_EROFS, MMDEBSTRAP];
    let missing = Facts { missing_preparation_tools: tools, ..good() };
    finds(&missing, "image tools", Warn, "apt-get install erofs-utils mmdebstrap");
    let missing = Facts { missing_preparation_tools: vec![APT_GET], ..good() };
    finds(&missing, "image tools", Warn, "Debian");
    finds(&Facts { limits: vec!["memory"], ..good() }, "cgroup limits", Warn, "not cpu, pids");
    finds(&Facts { limits: Vec::new(), ..good() }, "cgroup limits", Warn, "none; not memory");
    let memory = Memory { overcommit: 2, ..good().memory };
    finds(&Facts { memory, ..good() }, "overcommit", Warn, "vm.overcommit_memory=0");
    let memory = Memory { available_bytes: GIB, ..good().memory };
    finds(&Facts { memory, ..good() }, "memory", Warn, "1.0 GB available of 8.0 GB");
    finds(&Facts { merges_pages: true, ..good() }, "page merging", Warn, "ksm");
    finds(&Facts { open_files: 1024, ..good() }, "open files", Warn, "about 85 sandboxes");
}

#[test]
fn an_unknown_accelerator_is_neither_good_nor_bad() {
    let facts = Facts { accelerator: None, ..good() };
    assert_eq!(accelerator(&facts).status, Status::Ok);
    assert!(accelerator(&facts).found.contains("not probed yet"));
    let facts = Facts { kvm: KvmDevice::Absent, ..good() };
    assert_eq!(kvm_device(&facts.kvm, true).status, Status::Ok);
}

#[test]
fn verification_is_said() {
    assert!(!kernel(&good()).found.contains("verified"));
    let facts = Facts { verified: true, ..good() };
    assert!(kernel(&facts).found.contains("verified") && images(&facts).found.contains("verified"));
}

#[test]
fn disk_space_has_two_thresholds() {
    let with = |free_bytes| disk_space(&DataDir { free_bytes, ..good().data_dir }).status;
    assert_eq!(with(DISK_FAIL - 1), Status::Fail);
    assert_eq!(with(DISK_FAIL), Status::Warn);
    assert_eq!(with(DISK_WARN), Status::Ok);
}

#[test]
fn a_directory_that_is_too_deep_for_sockets_is_found() {
    // What comes below the directory takes 32 bytes: /run/0123456789abcdef/agent.sock
    let with = |length: usize| {
        let path = format!("/{}", "d".repeat(length - 1)).into();
        socket_paths(&DataDir { path, ..good().data_dir }).status
    };
    assert_eq!(with(SOCKET_PATH_MAX - 32), Status::Ok);
    assert_eq!(with(SOCKET_PATH_MAX - 31), Status::Fail);
}

#[test]
fn a_daemon_of_another_version_is_told_from_none() {
    let of = |state| daemon(&state, "1.0.0");
    let other = of(Daemon::Runs { version: "0.9.0".into() });
    assert_eq!(other.status, Status::Warn);
    assert!(other.hint.unwrap().contains("restart"));
    assert!(of(Daemon::NotRunning).hint.unwrap().contains("bhatti serve"));
    let problem = Problem { message: "refused".into(), hint: None };
    assert_eq!(of(Daemon::Unclear(problem)).status, Status::Warn);
}
