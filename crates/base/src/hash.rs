//! SHA-256 of files and of composed keys.

use std::{io, path::Path};

use fs_err as fs;
use sha2::{Digest, Sha256};

/// The SHA-256 of a file's content, as lower-case hexadecimal.
pub fn file(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = io::Read::read(&mut file, &mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// The SHA-256 of some bytes, as lower-case hexadecimal.
pub fn bytes(data: &[u8]) -> String {
    hex::encode(Sha256::digest(data))
}

/// The SHA-256 of bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Stream(Sha256);

impl Stream {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them, as lower-case hexadecimal.
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// A key over several parts that differs whenever any part differs: each part is hashed with its
/// length, so that moving a boundary between parts changes the key too.
pub fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_where_parts_end() {
        let joined = key([b"ab".as_slice(), b"c"]);
        assert_ne!(joined, key([b"a".as_slice(), b"bc"]));
        assert_eq!(joined, key([b"ab".as_slice(), b"c"]));
    }
}
