//! What there is to know about the host, without any opinion on it.

use std::{io, path::PathBuf};

use anyhow::{Context as _, Result};
use api::{
    BackupReport, EgressMode, NetworkMode,
    client::{ClientError, Endpoint},
};
use disk::{
    image::{self, ImageError},
    initramfs,
    kernel::{self, KernelBundle, KernelError},
};
use net::fabric::Tap;
use vmm::{
    NetworkNamespace, Qemu, UserWalls,
    accel::{self, Accelerator, Verdict},
    cgroup::Hierarchy,
};

use super::{
    certificates::{self, Certificate},
    forwarding,
    host::{self, DataDir, Memory},
};
use crate::{
    app::App,
    commands::{
        host_tools::{self, Tool},
        kernel::size_mb,
        preparing::megabytes,
    },
    config::Target,
};

/// Something that is not as it should be, and what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// `/dev/kvm`. That it opens does not prove that it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KvmDevice {
    Absent,
    Opens,
    Refused(String),
}

/// A prepared kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) id: String,
    pub(super) release: String,
    pub(super) size_mb: u64,
}

/// A prepared image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) size_mb: u64,
}

/// The daemon of this data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Daemon {
    NotRunning,
    Runs { version: String },
    Unclear(Problem),
}

/// The networks of the daemon of this data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Networks {
    /// There is no daemon that could say, or it says nothing to us.
    Unknown,
    /// None have been needed yet.
    NotMade,
    /// They are there; what is not as it should be, and whether a repair mends it.
    Made(Vec<(String, bool)>),
}

/// What a daemon without root needs instead of what root can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rootless {
    /// Whether users can make namespaces.
    pub(super) namespaces: Result<(), String>,
    /// Whether QEMU can make a network for its guest.
    pub(super) user_network: bool,
}

/// Everything that is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) root: bool,
    pub(super) architecture: &'static str,
    /// QEMU's version.
    pub(super) qemu: Result<String, String>,
    pub(super) kvm: KvmDevice,
    /// `None` if nobody knows yet.
    pub(super) accelerator: Option<Verdict>,
    pub(super) missing_runtime_tools: Vec<Tool>,
    pub(super) missing_preparation_tools: Vec<Tool>,
    pub(super) kernel: Result<Kernel, Problem>,
    pub(super) images: Result<Vec<Image>, Problem>,
    /// Whether kernel and images were compared with their hashes.
    pub(super) verified: bool,
    pub(super) data_dir: DataDir,
    /// Which limits monitors get: some of memory, cpu, pids.
    pub(super) limits: Vec<&'static str>,
    pub(super) network_namespace: Result<(), String>,
    pub(super) missing_network_tools: Vec<Tool>,
    /// Whether interfaces for VMs can be made.
    pub(super) taps: Result<(), String>,
    pub(super) networks: Networks,
    /// Those that the daemon shows or should show; `None` if no daemon tells of them.
    pub(super) certificates: Option<Vec<Certificate>>,
    /// Backups of volumes; `None` if no daemon tells of them.
    pub(super) backups: Option<BackupReport>,
    /// As the daemon says.
    pub(super) network_mode: Mode,
    /// What only matters without root.
    pub(super) rootless: Rootless,
    /// Whether the host forwards packets for anybody.
    pub(super) forwards_for_anybody: bool,
    /// Whether the host's kernel has system call filters.
    pub(super) seccomp: bool,
    pub(super) memory: Memory,
    /// Whether the host's kernel merges equal pages of different processes.
    pub(super) merges_pages: bool,
    pub(super) open_files: u64,
    pub(super) daemon: Daemon,
    /// This program's version.
    pub(super) version: &'static str,
}

/// Looks at everything. Boots a VM only if `probe`, reads whole files only if `verify`.
pub(super) fn collect(app: &App, probe: bool, verify: bool) -> Result<Facts> {
    let data = std::path::absolute(app.global().data_dir()).context("find the data directory")?;
    let socket = socket(app.target().ok(), &data);
    let (networks, network_mode, certificates) = networks(app, socket.clone());
    let qemu = Qemu::find(Accelerator::Tcg);
    let rootless = Rootless {
        namespaces: UserWalls::possible().map_err(|error| base::chain(&error)),
        user_network: qemu.as_ref().is_ok_and(Qemu::has_user_network),
    };
    let bundle = kernel::current(&data);
    let accelerator = match (&qemu, &bundle) {
        (Ok(qemu), Ok(bundle)) if probe => Some(decide(&data, qemu, bundle)?),
        (Ok(qemu), bundle) => {
            let vmlinux = bundle.as_ref().map(KernelBundle::vmlinux).unwrap_or_default();
            accel::known(qemu, &vmlinux, &verdict_file(&data))
        }
        (Err(_), _) => None,
    };
    Ok(Facts {
        root: rustix::process::geteuid().is_root(),
        architecture: std::env::consts::ARCH,
        qemu: qemu.map(|q| q.version().to_owned()).map_err(|error| base::chain(&error)),
        kvm: kvm_device(),
        accelerator,
        missing_runtime_tools: host_tools::missing(&[host_tools::MKE2FS]),
        missing_preparation_tools: host_tools::missing(&[
            host_tools::APT_GET,
            host_tools::DPKG_DEB,
            host_tools::MKFS_EROFS,
            host_tools::DEPMOD,
            host_tools::MMDEBSTRAP,
            host_tools::UNSHARE,
        ]),
        kernel: bundle
            .and_then(|bundle| check_kernel(&bundle, verify))
            .map_err(|error| kernel_problem(&error)),
        images: images(&data, verify).map_err(|error| image_problem(&error)),
        verified: verify,
        limits: Hierarchy::detect().limits(),
        network_namespace: NetworkNamespace::empty().map(drop).map_err(|e| e.to_string()),
        missing_network_tools: host_tools::missing(&[host_tools::NFT]),
        taps: Tap::loose().map(drop).map_err(|error| error.to_string()),
        networks,
        certificates,
        backups: backups(app, socket.clone()),
        network_mode,
        rootless,
        forwards_for_anybody: forwarding::for_anybody(),
        seccomp: std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        memory: host::memory(),
        merges_pages: host::merges_pages(),
        open_files: host::open_files(),
        daemon: daemon(app, socket),
        data_dir: host::data_dir(data),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Where the daemon of this machine listens: where commands go, unless they go elsewhere.
fn socket(commands: Option<Target>, data: &std::path::Path) -> PathBuf {
    match commands {
        Some(Target { endpoint: Endpoint::Unix(socket), .. }) => socket,
        _ => data.join("api.sock"),
    }
}

/// Where the daemon keeps the verdict too.
fn verdict_file(data: &std::path::Path) -> PathBuf {
    data.join("kvm-verdict.json")
}

fn decide(data: &std::path::Path, qemu: &Qemu, bundle: &KernelBundle) -> Result<Verdict> {
    let initramfs = initramfs::cached(data, bundle, crate::LOHAR).context("make the initramfs")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("start the async runtime")?;
    Ok(runtime.block_on(accel::decide(qemu, &bundle.vmlinux(), &initramfs, &verdict_file(data))))
}

fn kvm_device() -> KvmDevice {
    match fs_err::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => KvmDevice::Opens,
        Err(error) if error.kind() == io::ErrorKind::NotFound => KvmDevice::Absent,
        Err(error) => KvmDevice::Refused(error.to_string()),
    }
}

fn check_kernel(bundle: &KernelBundle, verify: bool) -> Result<Kernel, KernelError> {
    if verify {
        kernel::verify(bundle)?;
    }
    let (id, release) = (bundle.id().to_owned(), bundle.release().to_owned());
    Ok(Kernel { id, release, size_mb: size_mb(bundle) })
}

fn kernel_problem(error: &KernelError) -> Problem {
    Problem { message: base::chain(error), hint: error.hint() }
}

fn images(data: &std::path::Path, verify: bool) -> Result<Vec<Image>, ImageError> {
    let images = image::list(data)?;
    if verify {
        images.iter().try_for_each(image::verify)?;
    }
    let shown = images.iter().map(|image| Image {
        name: image.name().map(ToString::to_string).unwrap_or_default(),
        size_mb: megabytes(image.size()),
    });
    Ok(shown.collect())
}

fn image_problem(error: &ImageError) -> Problem {
    Problem { message: base::chain(error), hint: error.hint() }
}

/// How the daemon connects sandboxes, and what those of mode `user` may reach.
type Mode = Option<(NetworkMode, Option<EgressMode>)>;

/// What the daemon says of its networks and certificates. It tells admins only, and root counts as one.
fn networks(app: &App, socket: PathBuf) -> (Networks, Mode, Option<Vec<Certificate>>) {
    let target = Target { endpoint: Endpoint::Unix(socket), token: None };
    let asked = app.with_client_for(target, async |client| Ok(client.network().await?));
    let Ok(state) = asked else { return (Networks::Unknown, None, None) };
    let mode = state.mode.map(|mode| (mode, state.user_egress));
    let certificates = Some(certificates::facts(state.certificates));
    if !state.open {
        return (Networks::NotMade, mode, certificates);
    }
    let findings = state.findings.into_iter();
    let findings = findings.map(|found| (found.message, found.mendable)).collect();
    (Networks::Made(findings), mode, certificates)
}

/// Told to admins only, too.
fn backups(app: &App, socket: PathBuf) -> Option<BackupReport> {
    let target = Target { endpoint: Endpoint::Unix(socket), token: None };
    app.with_client_for(target, async |client| Ok(client.backup_report().await?)).ok()
}

fn daemon(app: &App, socket: PathBuf) -> Daemon {
    let target = Target { endpoint: Endpoint::Unix(socket), token: None };
    match app.with_client_for(target, async |client| Ok(client.health().await?)) {
        Ok(health) => Daemon::Runs { version: health.version },
        Err(error) => match error.downcast_ref::<ClientError>() {
            Some(ClientError::NotRunning { .. }) => Daemon::NotRunning,
            known => Daemon::Unclear(Problem {
                message: format!("{error:#}"),
                hint: known.and_then(ClientError::hint),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_daemon_is_asked_where_commands_go_unless_that_is_elsewhere() {
        let to = |url: &str| Some(Target { endpoint: url.parse().unwrap(), token: None });
        for (commands, expected) in [
            (to("unix:///run/b.sock"), "/run/b.sock"),
            (to("http://127.0.0.1:1"), "/d/api.sock"),
            (None, "/d/api.sock"),
        ] {
            assert_eq!(socket(commands, Path::new("/d")), Path::new(expected));
        }
    }
}
