//! Backups as files of this host: made before anything is sent, and read back.

use std::{
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use base::fault;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    format::{self, FormatError, Manifest, Progress, Totals},
    seal::{self, Identities, Recipients, Seal},
    source::{Source, Target},
};

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its length in bytes, as it is kept.
    pub bytes: u64,
    /// The SHA-256 of these bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// How many bytes of the disk it holds.
    pub data: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// Makes the backup of `source` as the new file `path`, whole and flushed, readable by nobody else.
/// If that fails nothing is left.
///
/// # Errors
/// If reading or writing fails, such as on a full disk, or `progress` ends it.
pub fn make(
    source: &mut dyn Source,
    manifest: &Manifest,
    recipients: Option<&Recipients>,
    path: &Path,
    progress: Progress<'_>,
) -> io::Result<Made> {
    let temporary = base::files::temporary_sibling(path);
    let made = (|| {
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        fault::point("backup.write")?;
        let output = BufWriter::with_capacity(256 << 10, Counted::new(file));
        let mut seal = Seal::new(output, recipients)?;
        let totals = format::write(source, manifest, &mut seal, progress)?;
        let counted = seal.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        counted.inner.sync_all()?;
        fault::point("backup.rename")?;
        fs::rename(&temporary, path)?;
        base::files::sync_parent(path)?;
        Ok(counted.made(totals, recipients.is_some()))
    })();
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made
}

/// Reads a backup into `target` and checks all of it; with `sha256`, also that it is the very bytes
/// that were kept.
///
/// # Errors
/// [`FormatError`]; `target` holds nothing of use then.
pub fn restore(
    input: impl Read,
    sha256: Option<&str>,
    identities: Option<&Identities>,
    target: &mut dyn Target,
    progress: Progress<'_>,
) -> Result<(Manifest, Totals), FormatError> {
    let hashed = Hashed { input, hasher: Sha256::new(), expected: sha256 };
    let mut stream = seal::open(hashed, identities)?;
    format::read(&mut stream, target, progress)
}

struct Counted<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    fn made(self, totals: Totals, encrypted: bool) -> Made {
        let sha256 = hex::encode(self.hasher.finalize());
        Made { bytes: self.bytes, sha256, data: totals.data, encrypted }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(data)?;
        self.hasher.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Fails at its end if it was not what was expected.
struct Hashed<'a, R> {
    input: R,
    hasher: Sha256,
    expected: Option<&'a str>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() {
            let found = hex::encode(self.hasher.clone().finalize());
            if self.expected.is_some_and(|expected| expected != found) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, Changed));
            }
        }
        Ok(n)
    }
}

/// What was kept has become something else.
#[derive(Debug, thiserror::Error)]
#[error("its SHA-256 is not the one that was noted when it was made")]
pub(crate) struct Changed;

#[cfg(test)]
mod tests;
