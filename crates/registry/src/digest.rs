//! SHA-256 as registries write it.

use std::{fmt, str::FromStr};

/// `sha256:` and 64 lower-case hexadecimal digits. Other kinds of digests are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

/// What was read is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not sha256: and 64 hexadecimal digits")]
pub struct InvalidDigest(String);

const PREFIX: &str = "sha256:";
/// What is shown of something that is no digest, in characters.
const SHOWN: usize = 80;

impl Digest {
    /// The digest of some bytes.
    pub fn of(content: &[u8]) -> Self {
        Self(base::hash::bytes(content))
    }

    /// From what a hash is.
    pub(crate) fn from_hex(hex: String) -> Self {
        Self(hex)
    }

    /// The 64 digits alone.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        match text.strip_prefix(PREFIX) {
            Some(hex)
                if hex.len() == 64
                    && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                Ok(Self(hex.to_owned()))
            }
            _ => Err(InvalidDigest(text.chars().take(SHOWN).collect())),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}
