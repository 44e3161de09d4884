//! What the facts mean, and what to do about them. Pure.

use std::fmt;

use serde::Serialize;
use vmm::accel::Accelerator;

use super::{
    backups, certificates,
    facts::{Daemon, Facts, KvmDevice, Networks, Problem},
    host::DataDir,
};
use crate::commands::host_tools::{Tool, install_line, not_installed};

mod rootless;

const GIB: u64 = 1 << 30;
/// Below this no sandbox gets far.
const DISK_FAIL: u64 = GIB;
/// Room for images, some templates and some stopped sandboxes.
const DISK_WARN: u64 = 10 * GIB;
const MEMORY_WARN: u64 = 2 * GIB;
/// Descriptors that the daemon has open for one sandbox, about.
const FILES_PER_SANDBOX: u64 = 12;
const OPEN_FILES_WARN: u64 = 4096;
/// The longest path that a Unix socket can have, bytes, without the terminating zero.
const SOCKET_PATH_MAX: usize = 107;
const ALL_LIMITS: [&str; 3] = ["memory", "cpu", "pids"];

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Ok,
    /// Sandboxes run, but less well than they could.
    Warn,
    /// Sandboxes do not run.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) status: Status,
    pub(super) found: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), hint: None }
    }

    pub(super) fn warn(
        check: &'static str,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { check, status: Status::Warn, found: found.into(), hint: Some(hint.into()) }
    }

    pub(super) fn fail(
        check: &'static str,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { check, status: Status::Fail, found: found.into(), hint: Some(hint.into()) }
    }

    fn problem(check: &'static str, problem: &Problem) -> Self {
        let (found, hint) = (problem.message.clone(), problem.hint.clone());
        Self { check, status: Status::Fail, found, hint }
    }
}

/// Every finding, in the order in which things are needed.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let [limits, namespaces, network_tools, networks] = match facts.root {
        true => [
            limits(&facts.limits),
            namespaces(&facts.network_namespace),
            network_tools(facts),
            networks(facts),
        ],
        false => rootless::all(facts),
    };
    let mut findings = vec![
        user(facts.root),
        architecture(facts.architecture),
        qemu(&facts.qemu),
        kvm_device(&facts.kvm, facts.root),
        accelerator(facts),
        runtime_tools(&facts.missing_runtime_tools),
        preparation_tools(&facts.missing_preparation_tools),
        kernel(facts),
        images(facts),
        data_dir(&facts.data_dir),
        disk_space(&facts.data_dir),
        socket_paths(&facts.data_dir),
        limits,
        namespaces,
        network_tools,
        networks,
        forwarding(facts.forwards_for_anybody),
        seccomp(facts.seccomp),
        memory(facts),
        overcommit(facts.memory.overcommit),
        page_merging(facts.merges_pages),
        open_files(facts.open_files),
        daemon(&facts.daemon, facts.version),
    ];
    findings.extend(certificates::judge(facts.certificates.as_deref()));
    findings.extend(backups::judge(facts.backups.as_ref()));
    findings
}

fn user(root: bool) -> Finding {
    if root {
        return Finding::ok("user", "root");
    }
    Finding::ok("user", "not root; what differs for that is marked with: without root")
}

fn architecture(name: &str) -> Finding {
    match name {
        "x86_64" => Finding::ok("processor", name),
        other => Finding::fail(
            "processor",
            format!("{other}, which this version does not support"),
            "use a host with an x86_64 processor",
        ),
    }
}

fn qemu(version: &Result<String, String>) -> Finding {
    match version {
        Ok(version) => Finding::ok("qemu", version),
        Err(error) => Finding::fail(
            "qemu",
            error,
            "apt-get install --no-install-recommends qemu-system-x86 (7.2 or newer)",
        ),
    }
}

fn kvm_device(kvm: &KvmDevice, root: bool) -> Finding {
    match kvm {
        KvmDevice::Opens => Finding::ok("/dev/kvm", "opens"),
        KvmDevice::Absent => Finding::ok("/dev/kvm", "absent; sandboxes run without it, slower"),
        KvmDevice::Refused(reason) => Finding::warn(
            "/dev/kvm",
            format!("cannot be opened: {reason}"),
            match root {
                true => "in a container, hand the device in",
                false => "put your user into the device's group: usermod -aG kvm USER",
            },
        ),
    }
}

fn accelerator(facts: &Facts) -> Finding {
    const CHECK: &str = "accelerator";
    let Some(verdict) = &facts.accelerator else {
        return match &facts.qemu {
            Ok(_) => Finding::ok(CHECK, "not probed yet; decided at first use, or with --probe"),
            Err(_) => Finding::ok(CHECK, "decided once there is QEMU"),
        };
    };
    let found = format!("{}: {}", verdict.accelerator, verdict.reason);
    match verdict.accelerator {
        Accelerator::Kvm => Finding::ok(CHECK, found),
        Accelerator::Tcg => Finding::warn(
            CHECK,
            found,
            "everything works, but programs in sandboxes run several times slower; use a host \
             whose KVM works, or turn nested virtualisation on",
        ),
    }
}

fn runtime_tools(missing: &[Tool]) -> Finding {
    if missing.is_empty() {
        return Finding::ok("disk tools", "mke2fs");
    }
    Finding::fail("disk tools", not_installed(missing), install_line(missing))
}

fn preparation_tools(missing: &[Tool]) -> Finding {
    const CHECK: &str = "image tools";
    if missing.is_empty() {
        return Finding::ok(CHECK, "apt, dpkg-deb, mkfs.erofs, depmod, mmdebstrap, unshare");
    }
    let found = format!("{}; kernels or images cannot be prepared", not_installed(missing));
    Finding::warn(CHECK, found, install_line(missing))
}

fn kernel(facts: &Facts) -> Finding {
    match &facts.kernel {
        Ok(kernel) => {
            let state = if facts.verified { ", verified" } else { "" };
            let found =
                format!("{} (Linux {}, {} MB{state})", kernel.id, kernel.release, kernel.size_mb);
            Finding::ok("kernel", found)
        }
        Err(problem) => Finding::problem("kernel", problem),
    }
}

fn images(facts: &Facts) -> Finding {
    match &facts.images {
        Ok(images) if images.is_empty() => {
            Finding::fail("images", "there is no image yet", "run: bhatti image prepare minimal")
        }
        Ok(images) => {
            let shown: Vec<String> = images
                .iter()
                .map(|image| format!("{} ({} MB)", image.name, image.size_mb))
                .collect();
            let state = if facts.verified { ", verified" } else { "" };
            Finding::ok("images", format!("{}{state}", shown.join(", ")))
        }
        Err(problem) => Finding::problem("images", problem),
    }
}

fn data_dir(dir: &DataDir) -> Finding {
    let path = dir.path.display();
    if !dir.exists {
        return Finding::ok("data directory", format!("{path}, to be made on {}", dir.file_system));
    }
    let reflinks = match dir.reflinks {
        Some(true) => "with reflinks",
        Some(false) => "without reflinks, which are not needed",
        None => "not writable here",
    };
    Finding::ok("data directory", format!("{path} on {}, {reflinks}", dir.file_system))
}

fn disk_space(dir: &DataDir) -> Finding {
    let found = format!("{} free", gigabytes(dir.free_bytes));
    let hint = "make room, or choose a directory on a larger disk with --data-dir";
    match dir.free_bytes {
        0..DISK_FAIL => Finding::fail("disk space", found, hint),
        DISK_FAIL..DISK_WARN => Finding::warn("disk space", found, hint),
        _ => Finding::ok("disk space", found),
    }
}

fn socket_paths(dir: &DataDir) -> Finding {
    let longest = dir.path.join("run/0123456789abcdef/agent.sock").as_os_str().len();
    let found = format!("{longest} of {SOCKET_PATH_MAX} bytes");
    if longest <= SOCKET_PATH_MAX {
        return Finding::ok("socket paths", found);
    }
    Finding::fail("socket paths", found, "choose a shorter directory with --data-dir")
}

fn limits(applied: &[&str]) -> Finding {
    let missing: Vec<&str> =
        ALL_LIMITS.into_iter().filter(|limit| !applied.contains(limit)).collect();
    if missing.is_empty() {
        return Finding::ok("cgroup limits", applied.join(", "));
    }
    let applied = if applied.is_empty() { "none".to_owned() } else { applied.join(", ") };
    Finding::warn(
        "cgroup limits",
        format!("{applied}; not {}", missing.join(", ")),
        "mount /sys/fs/cgroup with these controllers, writable by root; until then VMs are not \
         limited in them",
    )
}

fn namespaces(network: &Result<(), String>) -> Finding {
    match network {
        Ok(()) => Finding::ok("namespaces", "can be made"),
        Err(error) => Finding::fail(
            "namespaces",
            format!("no network namespace can be made: {error}"),
            "run it with sudo; in a container, give it CAP_SYS_ADMIN",
        ),
    }
}

fn network_tools(facts: &Facts) -> Finding {
    const CHECK: &str = "network tools";
    let missing = &facts.missing_network_tools;
    match &facts.taps {
        Err(error) => Finding::fail(
            CHECK,
            format!("no interface for a VM can be made: {error}"),
            "load the kernel module: modprobe tun; in a container, give it /dev/net/tun and \
             CAP_NET_ADMIN",
        ),
        Ok(()) if missing.is_empty() => Finding::ok(CHECK, "nft, /dev/net/tun"),
        Ok(()) => {
            let found = format!("{}; sandboxes have no network", not_installed(missing));
            let hint = format!("{}, or serve with --network off", install_line(missing));
            Finding::fail(CHECK, found, hint)
        }
    }
}

fn networks(facts: &Facts) -> Finding {
    const CHECK: &str = "networks";
    let mode = facts.network_mode.as_ref().map(|(mode, _)| format!("mode {mode}: "));
    let ok = |found: &str| Finding::ok(CHECK, format!("{}{found}", mode.unwrap_or_default()));
    let findings = match &facts.networks {
        Networks::Unknown => return ok("not looked at: no daemon tells of them"),
        Networks::NotMade => return ok("none yet; the first sandbox makes them"),
        Networks::Made(findings) if findings.is_empty() => return ok("as they should be"),
        Networks::Made(findings) => findings,
    };
    let said: Vec<&str> = findings.iter().map(|(message, _)| message.as_str()).collect();
    let hint = match findings.iter().any(|(_, mendable)| *mendable) {
        true => "bhatti network repair",
        false => "see docs/networking.md",
    };
    Finding::warn(CHECK, said.join("; "), hint)
}

fn forwarding(for_anybody: bool) -> Finding {
    if !for_anybody {
        return Finding::ok("forwarding", "the host is no router for everybody");
    }
    let found = "the host forwards packets of anybody between all its interfaces";
    let hint = "filter what is forwarded, or set net.ipv4.ip_forward to 0 and restart the daemon, \
                which opens the way for sandboxes only";
    Finding::warn("forwarding", found, hint)
}

fn seccomp(there: bool) -> Finding {
    if there {
        return Finding::ok("seccomp", "the kernel has system call filters");
    }
    let found = "the kernel has no system call filters, which QEMU is confined by";
    Finding::fail("seccomp", found, "boot a kernel with CONFIG_SECCOMP_FILTER")
}

fn memory(facts: &Facts) -> Finding {
    let available = facts.memory.available_bytes;
    let found =
        format!("{} available of {}", gigabytes(available), gigabytes(facts.memory.total_bytes));
    if available >= MEMORY_WARN {
        return Finding::ok("memory", found);
    }
    Finding::warn("memory", found, "end other programs, or give the machine more")
}

fn overcommit(mode: u8) -> Finding {
    if mode != 2 {
        return Finding::ok("overcommit", "allowed: VMs take only the memory that they use");
    }
    Finding::warn(
        "overcommit",
        "forbidden: every VM counts with all of its memory, used or not",
        "sysctl -w vm.overcommit_memory=0",
    )
}

fn page_merging(on: bool) -> Finding {
    if !on {
        return Finding::ok(
            "page merging",
            "off; not needed, sandboxes share their template's pages",
        );
    }
    Finding::warn(
        "page merging",
        "on: guests can find out by timing which pages others have",
        "echo 2 > /sys/kernel/mm/ksm/run",
    )
}

fn open_files(limit: u64) -> Finding {
    let sandboxes = limit / FILES_PER_SANDBOX;
    if limit == u64::MAX {
        return Finding::ok("open files", "not limited");
    }
    let found = format!("{limit}, enough for about {sandboxes} sandboxes");
    if limit >= OPEN_FILES_WARN {
        return Finding::ok("open files", found);
    }
    let hint = "start the daemon with a higher limit: the systemd unit does, in a shell it is \
                ulimit -n 65536";
    Finding::warn("open files", found, hint)
}

fn daemon(daemon: &Daemon, own: &str) -> Finding {
    match daemon {
        Daemon::Runs { version } if version == own => {
            Finding::ok("daemon", format!("running, version {version}"))
        }
        Daemon::Runs { version } => Finding::warn(
            "daemon",
            format!("running version {version}, while this program is {own}"),
            "restart the daemon; sandboxes go on running",
        ),
        Daemon::NotRunning => Finding::warn(
            "daemon",
            "not running",
            "start it: systemctl start bhatti, or bhatti serve",
        ),
        Daemon::Unclear(problem) => {
            Finding { status: Status::Warn, ..Finding::problem("daemon", problem) }
        }
    }
}

fn gigabytes(bytes: u64) -> String {
    // A tenth is fine enough to choose a disk by.
    let tenths = bytes / (GIB / 10);
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests;
