//! Kernel modules from the initramfs.

use std::fs::{self, File};
use std::io;

use rustix::io::Errno;
use rustix::system::finit_module;

use super::{BootError, Doing};
use crate::log;

const DIRECTORY: &str = "/modules";

/// Loads every module in the order of the file names.
pub(super) fn load_all() -> Result<(), BootError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("list {DIRECTORY}"))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.doing(|| format!("list {DIRECTORY}"))?.path();
        if path.extension().is_some_and(|extension| extension == "ko") {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        match finit_module(&file, c"", 0) {
            // Part of the kernel already.
            Ok(()) | Err(Errno::EXIST) => {}
            // Made for hardware that this machine lacks; whether that matters shows later.
            Err(Errno::NODEV) => log::info(&format!("{} has nothing to do", path.display())),
            error => error.doing(|| format!("load {}", path.display()))?,
        }
    }
    Ok(())
}
