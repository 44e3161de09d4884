//! From a bare initramfs to a guest that commands can run in.
//!
//! ```text
//!   /init, /modules      modules ─► devices ─► base (read-only) ┐
//!                                              scratch          ┴─► overlay = the new /
//! ```
//!
//! The process stays the same throughout, and nothing of it is left in the image.

mod devices;
mod modules;
mod plain;
mod root;
mod system;
mod user;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::conf::Conf;
use crate::{log, power};

/// On the kernel's command line: say that user space was reached and power off.
const PROBE: &str = "bhatti.probe";

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

/// Whether the host only wants to know if a guest gets this far.
fn is_probe() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_ascii_whitespace().any(|word| word == PROBE)
}

/// Boots the guest.
///
/// # Errors
/// Says what failed; the guest is of no use then.
pub(crate) fn run() -> Result<Booted, BootError> {
    root::mount_kernel_files()?;
    if is_probe() {
        log::fatal("user space was reached, which is all that this boot was for");
        power::at_once();
    }
    let events = devices::Events::listen()?;
    modules::load_all()?;
    let found = devices::wait(&events)?;
    let disk = root::enter(&found)?;
    system::set_up(found.modules.as_deref())?;
    plain::set_up(&disk, &Conf::read(Path::new("/")).plain)?;
    user::set_up()?;
    Ok(Booted { port: found.port, notice: found.notice, disk })
}
