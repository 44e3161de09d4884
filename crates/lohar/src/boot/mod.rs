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
mod root;
mod system;
mod user;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use thiserror::Error;

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

/// Boots the guest.
///
/// # Errors
/// Says what failed; the guest is of no use then.
pub(crate) fn run() -> Result<Booted, BootError> {
    root::mount_kernel_files()?;
    let events = devices::Events::listen()?;
    modules::load_all()?;
    let found = devices::wait(&events)?;
    let disk = root::enter(&found)?;
    system::set_up(found.modules.as_deref())?;
    user::set_up()?;
    Ok(Booted { port: found.port, disk })
}
