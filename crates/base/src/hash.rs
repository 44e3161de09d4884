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
