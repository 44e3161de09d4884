//! From a bare initramfs to a guest that commands can run in.
//!
//! ```text
//!   /init, /modules      modules ─► devices ─► base (read-only) ┐
//!                                              scratch          ┴─► overlay = the new /
//! ```
//!
//! The process stays the same throughout, and nothing of it is left in the image.

pub(crate) mod devices;
mod modules;
mod plain;
pub(crate) mod root;
mod system;
mod user;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::conf::Conf;
use crate::{jobs, log, power};

/// On the kernel's command line: say that user space was reached and power off.
const PROBE: &str = "bhatti.probe";

/// On the kernel's command line: the disk may have been another guest's.
const NEW: &str = "bhatti.new";

/// On the kernel's command line: whether the image wants its services.
const SERVICES: [(&str, bool); 2] = [("bhatti.services=on", true), ("bhatti.services=off", false)];

/// Why the guest cannot run.
#[derive(Debug, Error)]
#[error("{doing}: {source}")]
pub(crate) struct BootError {
    doing: String,
    source: io::Error,
}

/// What the agent needs of the machine.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The port to the host.
    pub(crate) port: PathBuf,
    /// The port on which the host is told that the agent waits.
    pub(crate) notice: PathBuf,
    /// The root directory of the writable disk.
    pub(crate) disk: OwnedFd,
}

/// Says what was being done when something failed.
trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, BootError> {
        self.map_err(|error| BootError { doing: what(), source: error.into() })
    }
}

/// Whether the host said this on the kernel's command line.
fn was_told(wanted: &str) -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_ascii_whitespace().any(|word| word == wanted)
}

/// Whether the image wants its services, as the host knows it; nothing if that knows nothing.
pub(crate) fn services() -> Option<bool> {
    SERVICES.into_iter().find(|(word, _)| was_told(word)).map(|(_, wanted)| wanted)
}

/// Removes a directory that need not exist.
fn remove_any(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Boots the guest.
///
/// # Errors
/// Says what failed; the guest is of no use then.
pub(crate) fn run() -> Result<Booted, BootError> {
    root::mount_kernel_files()?;
    if was_told(PROBE) {
        log::fatal("user space was reached, which is all that this boot was for");
        power::at_once();
    }
    let events = devices::Events::listen()?;
    modules::load_all()?;
    let found = devices::wait(&events)?;
    let disk = root::enter(&found)?;
    if was_told(NEW) {
        let jobs = Path::new("/").join(jobs::DIRECTORY);
        remove_any(&jobs).doing(|| format!("remove {}", jobs.display()))?;
    }
    system::set_up(found.modules.as_deref())?;
    plain::set_up(&disk, &Conf::read(Path::new("/")).plain)?;
    user::set_up()?;
    Ok(Booted { port: found.port, notice: found.notice, disk })
}
