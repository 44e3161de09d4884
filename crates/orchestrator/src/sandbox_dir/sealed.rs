//! Descriptions with a checksum of their own: a flipped digit in one could otherwise name the wrong
//! layers.

use std::path::Path;

use base::{files, hash};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Result};

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    sha256: String,
    body: T,
}

/// Replaces the description at `path`.
pub(crate) fn write(path: &Path, body: &impl Serialize) -> Result<()> {
    let text = checksum(body)
        .and_then(|sha256| serde_json::to_vec_pretty(&Sealed { sha256, body }))
        .map_err(|error| Error::internal("a manifest cannot be written", error))?;
    Ok(files::write_atomic(path, &text, 0o600)?)
}

/// Reads the description at `path` and checks it.
pub(crate) fn read<T: DeserializeOwned + Serialize>(path: &Path) -> std::io::Result<T> {
    let sealed: Sealed<T> = serde_json::from_slice(&fs_err::read(path)?)?;
    if checksum(&sealed.body)? == sealed.sha256 {
        return Ok(sealed.body);
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the checksum does not match"))
}

fn checksum(body: &impl Serialize) -> serde_json::Result<String> {
    Ok(hash::bytes(&serde_json::to_vec(body)?))
}
