//! The QEMU engine.

mod argv;
mod concat;
mod launch;
mod layers;
mod namespace;
mod qmp;
mod spare;
mod vm;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use base::process::Command;

pub use namespace::namespace_of;
pub use spare::{Claim, Spare};
pub use vm::{Console, GuestPort, PortWatch, Vm, VmHandle};

use crate::{
    VmError,
    accel::{self, Accelerator, Verdict},
};

/// The oldest version that our command line and snapshot method work with.
const OLDEST: (u32, u32) = (7, 2);
const OLDEST_TEXT: &str = "7.2";

/// A QEMU on this host together with the accelerator that it is used with.
#[derive(Debug, Clone)]
pub struct Qemu {
    binary: PathBuf,
    version: String,
    accelerator: Accelerator,
    tsc_khz: Option<u64>,
    user_network: bool,
    stamp: Stamp,
    /// What the host's processor can do, once it was asked for: the kernel tells of all of its CPUs.
    cpu: Arc<OnceLock<String>>,
}

/// What changes when a package manager replaces a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: i64,
    size: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs_err::metadata(path).ok()?;
        Some(Self { inode: meta.ino(), modified: meta.mtime(), size: meta.size() })
    }
}

impl Qemu {
    /// Looks for QEMU and asks for its version. Blocks for some 20 ms.
    ///
    /// # Errors
    /// [`VmError::Missing`] and [`VmError::TooOld`].
    pub fn find(accelerator: Accelerator) -> Result<Self, VmError> {
        let name = concat!("qemu-system-", "x86_64");
        Self::at(&which(name)?, accelerator)
    }

    /// Uses the QEMU at `binary`.
    pub fn at(binary: &Path, accelerator: Accelerator) -> Result<Self, VmError> {
        let stamp = Stamp::of(binary)
            .ok_or_else(|| VmError::Missing { binary: binary.display().to_string() })?;
        let output =
            Command::new(binary).arg("--version").output().map_err(|error| match error {
                base::process::ProcessError::Missing { program } => {
                    VmError::Missing { binary: program }
                }
                other => VmError::Spawn(other),
            })?;
        let version = parse_version(&String::from_utf8_lossy(&output));
        if version.as_deref().and_then(major_minor).is_none_or(|v| v < OLDEST) {
            return Err(VmError::TooOld {
                binary: binary.to_owned(),
                found: version.unwrap_or_else(|| "unknown".to_owned()),
                wanted: OLDEST_TEXT,
            });
        }
        let version = version.unwrap_or_default();
        Ok(Self {
            binary: binary.to_owned(),
            version,
            accelerator,
            tsc_khz: None,
            user_network: false,
            stamp,
            cpu: Arc::default(),
        })
    }

    /// The same QEMU used as the verdict says.
    pub fn with_verdict(&self, verdict: &Verdict) -> Self {
        Self { accelerator: verdict.accelerator, tsc_khz: verdict.tsc_khz, ..self.clone() }
    }

    /// The same QEMU, whose VMs have [`Nic::User`](crate::Nic::User) and not a tap: its device has other
    /// features, so neither's device states are the other's.
    #[must_use]
    pub fn with_user_network(self) -> Self {
        Self { user_network: true, ..self }
    }

    /// What a guest's kernel has to be told about the machine, for its command line.
    pub fn kernel_arguments(&self) -> String {
        match (self.accelerator, self.tsc_khz) {
            (Accelerator::Tcg, Some(khz)) => format!("tsc_early_khz={khz} tsc=reliable"),
            _ => String::new(),
        }
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Whether the binary is still the one whose version was asked.
    pub fn is_unchanged(&self) -> bool {
        Stamp::of(&self.binary) == Some(self.stamp)
    }

    /// The group that a monitor needs to be in for its accelerator.
    fn device_group(&self) -> Option<u32> {
        match self.accelerator {
            Accelerator::Kvm => accel::kvm_group().ok().flatten(),
            Accelerator::Tcg => None,
        }
    }

    /// Whether it can make a network for its guest, which distributions may leave out. Blocks for
    /// some 20 ms.
    pub fn has_user_network(&self) -> bool {
        let asked = Command::new(&self.binary).args(["-netdev", "help"]).output();
        asked.is_ok_and(|said| String::from_utf8_lossy(&said).lines().any(|line| line == "user"))
    }

    /// Its version, for people.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The accelerator in use.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// What a device state depends on besides the machine's shape: a state saved under one
    /// fingerprint must not be loaded under another.
    pub fn fingerprint(&self) -> String {
        let cpu = match self.accelerator {
            // The guest sees the host's own processor.
            Accelerator::Kvm => self.cpu.get_or_init(host_cpu).clone(),
            Accelerator::Tcg => format!("max tsc {}", self.tsc_khz.unwrap_or(0)),
        };
        let network = if self.user_network { " network user" } else { "" };
        let layout = argv::LAYOUT;
        format!("qemu {} {} cpu {cpu} layout {layout}{network}", self.version, self.accelerator)
    }
}

/// A short name for what the host's first processor can do.
fn host_cpu() -> String {
    let info = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = info.split("\n\n").next().unwrap_or_default();
    let lines = first.lines().filter(|l| {
        ["model name", "flags", "stepping", "microcode"].iter().any(|key| l.starts_with(key))
    });
    base::hash::key(lines.map(str::as_bytes))[..12].to_owned()
}

fn which(name: &str) -> Result<PathBuf, VmError> {
    ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/opt/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| VmError::Missing { binary: name.to_owned() })
}

/// The version in the first line of `--version`, with the distribution's suffix, which may stand
/// for patches that change the device state.
fn parse_version(output: &str) -> Option<String> {
    let line = output.lines().next()?;
    let version = line.split_once("version ")?.1.trim();
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_their_suffix() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        let version = parse_version(text).unwrap();
        assert_eq!(version, "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)");
        assert_eq!(major_minor(&version), Some((7, 2)));
        assert!(major_minor("5.1.0").unwrap() < OLDEST && major_minor("10.0.2").unwrap() > OLDEST);
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn a_device_state_fits_one_kind_of_network() {
        let Ok(qemu) = Qemu::find(Accelerator::Tcg) else { panic!("QEMU is not installed") };
        let (tap, user) = (qemu.fingerprint(), qemu.with_user_network().fingerprint());
        assert_eq!(user, format!("{tap} network user"));
    }

    #[test]
    fn an_impostor_is_too_old() {
        let error = Qemu::at(Path::new("/bin/true"), Accelerator::Tcg).unwrap_err();
        assert!(matches!(error, VmError::TooOld { .. }));
    }
}
