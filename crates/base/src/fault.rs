//! Places at which tests make something go wrong.
//!
//! ```text
//! BHATTI_FAULT        what is to go wrong, from the start of the process
//! BHATTI_FAULT_FILE   where to look for more of it; taken, with all counts at zero, once it is there
//! BHATTI_FAULT_TRACE  the file that gets a line for each place that is passed
//! ```
//! What goes wrong is a list, `NAME[@N]=ACTION,…`: at the N-th passing of the place NAME, by default
//! the first, and once.
//!
//! | action | |
//! |---|---|
//! | `kill` | the process dies of SIGKILL |
//! | `vmm` | all monitors of this daemon do, and are gone when the place is left |
//! | `both` | all of them do |
//! | `enospc`, `eio` | the place fails with this error |
//!
//! The trace says `NAME`, or `NAME=ACTION` where something went wrong.
//!
//! Invariant: without the feature `faults` a place is nothing at all, and nobody's environment can
//! change that. The program that people run is built without it.

#[cfg(any(test, feature = "faults"))]
mod plan;

#[cfg(feature = "faults")]
mod live;

#[cfg(feature = "faults")]
pub use live::{point, prepare};

/// Opens what is locked while a process passes a place, and has to be while the file that
/// `BHATTI_FAULT_FILE` names changes: beside that file, with `.lock` after its name.
///
/// # Errors
/// If it cannot be created.
pub fn lock_file(armed: &std::path::Path) -> std::io::Result<std::fs::File> {
    let mut path = armed.as_os_str().to_owned();
    path.push(".lock");
    std::fs::OpenOptions::new().create(true).append(true).open(path)
}

/// A step has been reached, and what comes next may fail.
///
/// # Errors
/// What a test asked for, such as a full disk.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing of the name may be left in the program")]
pub fn point(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

/// Takes up what the environment says, and says whom the action `vmm` kills.
///
/// # Errors
/// If it says what is not understood.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "as of `point`")]
pub fn prepare(_monitors: impl Fn() -> Vec<i32> + Send + Sync + 'static) -> std::io::Result<()> {
    Ok(())
}
