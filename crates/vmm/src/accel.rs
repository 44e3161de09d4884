//! Which accelerator works on this host.
//!
//! That `/dev/kvm` opens proves nothing: there are hosts where it opens, a VM is created, and the
//! kernel then hangs in early boot. So the question is answered by booting the real kernel once
//! under a deadline; the answer is kept for this boot of the host, kernel and QEMU.

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base::process::Command;
use serde::{Deserialize, Serialize};

use crate::{Qemu, jail, tsc};

/// How guest instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By QEMU's own translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// A choice and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The choice.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub reason: String,
    /// The frequency of the host's time stamp counter in kHz, which translated guests are told.
    #[serde(default)]
    pub tsc_khz: Option<u64>,
}

/// A boot that takes longer than this means that KVM does not work. A working one takes less than
/// half a second until init speaks.
const DEADLINE: Duration = Duration::from_secs(5);
/// What the agent prints in a test boot: proof that user space was reached.
const REACHED: &str = "user space was reached";

/// A remembered verdict and what it holds for.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    holds_for: String,
    verdict: Verdict,
}

/// Answers from memory if there is an answer for this boot of the host, else probes and remembers.
pub async fn decide(qemu: &Qemu, kernel: &Path, initramfs: &Path, memory: &Path) -> Verdict {
    let holds_for = situation(qemu, kernel);
    if let Some(verdict) = recall(memory, &holds_for) {
        return verdict;
    }
    let mut verdict = match without_probe() {
        Some(verdict) => verdict,
        None => probe(qemu, kernel, initramfs).await,
    };
    let earlier = remembered(memory).and_then(|r| r.verdict.tsc_khz);
    verdict.tsc_khz = tsc::settle(earlier, tsc::measure_khz());
    let remembered = Remembered { holds_for, verdict: verdict.clone() };
    if let Ok(text) = serde_json::to_vec(&remembered)
        && let Err(error) = base::files::write_atomic(memory, &text, 0o644)
    {
        tracing::debug!(%error, "the KVM verdict could not be kept");
    }
    verdict
}

/// The verdict if no probe is needed: the remembered one or the plain absence of KVM.
pub fn known(qemu: &Qemu, kernel: &Path, memory: &Path) -> Option<Verdict> {
    recall(memory, &situation(qemu, kernel)).or_else(without_probe)
}

fn without_probe() -> Option<Verdict> {
    let opened = fs_err::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let reason = match opened {
        Ok(_) => match kvm_group() {
            Ok(_) => return None,
            Err(reason) => reason,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "this host has no /dev/kvm".to_owned()
        }
        Err(error) => format!("/dev/kvm cannot be opened: {error}"),
    };
    Some(Verdict { accelerator: Accelerator::Tcg, reason, tsc_khz: None })
}

/// The group that gives a confined monitor access to KVM; `None` if everybody has it.
///
/// # Errors
/// Why a monitor that is not root can have none, and what to do.
pub(crate) fn kvm_group() -> Result<Option<u32>, String> {
    if !jail::is_root() {
        // A user's monitors are in the groups that the user is in.
        return Ok(None);
    }
    let meta = fs_err::metadata("/dev/kvm").map_err(|error| error.to_string())?;
    group_for(meta.mode(), meta.gid())
}

fn group_for(mode: u32, gid: u32) -> Result<Option<u32>, String> {
    match (mode & 0o006, mode & 0o060, gid) {
        (0o006, _, _) => Ok(None),
        (_, 0o060, 1..) => Ok(Some(gid)),
        _ => {
            Err("/dev/kvm is for root only, and monitors do not run as root; give it to a group: \
                  chgrp kvm /dev/kvm && chmod 660 /dev/kvm"
                .to_owned())
        }
    }
}

fn situation(qemu: &Qemu, kernel: &Path) -> String {
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // The same kernel may be reached through another data directory.
    let kernel = fs_err::canonicalize(kernel).unwrap_or_else(|_| kernel.to_owned());
    format!("{} {} {}", boot.trim(), qemu.version(), kernel.display())
}

fn recall(memory: &Path, holds_for: &str) -> Option<Verdict> {
    let remembered = remembered(memory)?;
    let kvm_is_there = without_probe().is_none();
    let measured = remembered.verdict.tsc_khz.is_some() || !cfg!(target_arch = "x86_64");
    let fits = match remembered.verdict.accelerator {
        Accelerator::Kvm => kvm_is_there,
        Accelerator::Tcg => measured,
    };
    (remembered.holds_for == holds_for && fits).then_some(remembered.verdict)
}

fn remembered(memory: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs_err::read(memory).ok()?).ok()
}

async fn probe(qemu: &Qemu, kernel: &Path, initramfs: &Path) -> Verdict {
    let tcg = |reason: String| Verdict { accelerator: Accelerator::Tcg, reason, tsc_khz: None };
    let console = match tempfile_path(initramfs) {
        Ok(path) => path,
        Err(error) => return tcg(format!("KVM could not be probed: {error}")),
    };
    let verdict = match boot(qemu, kernel, initramfs, &console).await {
        Ok(true) => Verdict {
            accelerator: Accelerator::Kvm,
            reason: "a test VM booted with KVM".to_owned(),
            tsc_khz: None,
        },
        Ok(false) => tcg(format!(
            "/dev/kvm opens, but a test VM did not boot with it in {} s",
            DEADLINE.as_secs()
        )),
        Err(error) => tcg(format!("/dev/kvm opens, but {}", base::chain(&error))),
    };
    let _ = base::files::remove_any(&console);
    verdict
}

fn tempfile_path(near: &Path) -> std::io::Result<PathBuf> {
    let path = base::files::temporary_sibling(near);
    fs_err::File::create(&path)?;
    Ok(path)
}

/// Boots with no disks; the agent says that it is there and powers off.
async fn boot(
    qemu: &Qemu,
    kernel: &Path,
    initramfs: &Path,
    console: &Path,
) -> Result<bool, base::process::ProcessError> {
    let process = Command::new(qemu.binary())
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-machine", "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on"])
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256M"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t bhatti.probe"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let ended = tokio::time::timeout(DEADLINE, process.exited()).await.is_ok();
    if !ended {
        process.kill_and_wait().await;
    }
    let printed = fs_err::read(console).unwrap_or_default();
    Ok(String::from_utf8_lossy(&printed).contains(REACHED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_gets_the_group_of_kvm_and_never_roots() {
        assert_eq!(group_for(0o100_666, 0), Ok(None));
        assert_eq!(group_for(0o100_660, 106), Ok(Some(106)));
        assert!(group_for(0o100_660, 0).is_err());
        assert!(group_for(0o100_600, 106).is_err());
    }
}
