//! Places at which tests make something go wrong. Without the feature `faults` they cost nothing
//! and do nothing.

use std::io;

/// A step has been reached. `Ok`, unless a test wants it to fail or the process to die here.
///
/// # Errors
/// What the test asked for, such as a full disk.
#[inline]
pub fn point(_name: &'static str) -> io::Result<()> {
    Ok(())
}
