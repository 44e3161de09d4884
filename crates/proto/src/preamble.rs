//! The first bytes of a session, and the proof that both sides hold the sandbox's token.
//!
//! A restored guest may still find bytes of an earlier session in its port, so each side discards
//! whatever precedes the other's preamble. A fresh nonce from each side makes every proof good for
//! one session only.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The newest protocol version that this crate speaks.
pub const VERSION: u16 = 1;

/// Bytes that a peer may send before its preamble is given up on.
pub const SCAN_MAX: usize = 4 * 1024 * 1024;

/// Byte of which a [`Hail`] is made; neither a preamble nor a frame of the multiplexer starts so.
const HAIL_BYTE: u8 = 0xff;

/// What a host sends when no preamble comes. A guest that has not noticed the end of an earlier
/// session takes it for a broken frame of that, and starts over; one whose preamble went to an
/// earlier host says it again.
pub const HAIL: [u8; 16] = [HAIL_BYTE; 16];

/// Length of an encoded preamble in bytes.
pub const PREAMBLE_LEN: usize = MAGIC.len() + 2 + NONCE_LEN + CHECK_LEN;

const NONCE_LEN: usize = 32;
/// A preamble that was cut short by a restore is followed by a whole one; the check tells them
/// apart.
const CHECK_LEN: usize = 4;
/// Must not start with zero: that is how a frame of the multiplexer starts, and a peer that is
/// still in an old session shall fail on it at once.
const MAGIC: [u8; 16] = [
    0xb4, 0xa7, 0x71, 0x9e, 0x0c, 0xd3, 0x5f, 0x82, 0xe9, 0x16, 0xca, 0x3d, 0x68, 0xf0, 0x2b, 0x95,
];

/// What each side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The newest protocol version that the sender speaks.
    pub version: u16,
    /// Random bytes that the peer's proof is made over.
    pub nonce: [u8; NONCE_LEN],
}

impl Preamble {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let mut wire = [0; PREAMBLE_LEN];
        let (magic, rest) = wire.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        let (version, rest) = rest.split_at_mut(2);
        version.copy_from_slice(&self.version.to_be_bytes());
        let (nonce, check) = rest.split_at_mut(NONCE_LEN);
        nonce.copy_from_slice(&self.nonce);
        check.copy_from_slice(&self.check());
        wire
    }

    fn decode(wire: &[u8; PREAMBLE_LEN]) -> Option<Self> {
        let rest = wire.strip_prefix(&MAGIC)?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (nonce, check) = rest.split_first_chunk::<NONCE_LEN>()?;
        let preamble = Self { version: u16::from_be_bytes(*version), nonce: *nonce };
        (preamble.check() == check).then_some(preamble)
    }

    fn check(&self) -> [u8; CHECK_LEN] {
        let mut hash = Sha256::new();
        hash.update(self.version.to_be_bytes());
        hash.update(self.nonce);
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        [a, b, c, d]
    }
}

/// No preamble came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PreambleError {
    /// More than [`SCAN_MAX`] bytes held none.
    #[error("no preamble within {SCAN_MAX} bytes")]
    NotFound,
}

/// Recognises a [`HAIL`] in whatever comes.
#[derive(Debug, Default)]
pub struct Hail {
    run: usize,
}

impl Hail {
    /// Whether the next bytes complete one.
    pub fn is_heard(&mut self, bytes: &[u8]) -> bool {
        let mut heard = false;
        for byte in bytes {
            self.run = if *byte == HAIL_BYTE { self.run + 1 } else { 0 };
            if self.run == HAIL.len() {
                heard = true;
                self.run = 0;
            }
        }
        heard
    }
}

/// Whether `bytes`, at least one, may be another preamble and cannot be a multiplexer's frame.
#[cfg(feature = "mux")]
pub(crate) fn is_repeated(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MAGIC[0])
}

/// Finds the peer's preamble in whatever comes before it.
#[derive(Debug, Default)]
pub struct Scanner {
    buffer: Vec<u8>,
    discarded: usize,
}

impl Scanner {
    /// A scanner that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes; answers the preamble once it is complete. Then [`Scanner::into_rest`] has what
    /// followed it.
    ///
    /// # Errors
    /// [`PreambleError::NotFound`] after too many bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Preamble>, PreambleError> {
        self.buffer.extend_from_slice(bytes);
        let mut at = 0;
        let found = loop {
            let rest = &self.buffer[at..];
            let Some(wire) = rest.first_chunk::<PREAMBLE_LEN>() else {
                // Only a possible beginning is worth keeping.
                if rest.is_empty() || is_beginning(rest) {
                    break None;
                }
                at += 1;
                continue;
            };
            if let Some(preamble) = Preamble::decode(wire) {
                at += PREAMBLE_LEN;
                break Some(preamble);
            }
            at += 1;
        };
        self.buffer.drain(..at);
        self.discarded += at;
        match found {
            None if self.discarded > SCAN_MAX => Err(PreambleError::NotFound),
            found => Ok(found),
        }
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The bytes after the preamble that were pushed together with it.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }
}

/// Whether `bytes`, which are too short for a preamble, may be the beginning of one.
fn is_beginning(bytes: &[u8]) -> bool {
    let length = bytes.len().min(MAGIC.len());
    bytes[..length] == MAGIC[..length]
}

/// Who proves itself; part of the proof so that one side's cannot be sent back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The daemon.
    Host,
    /// The agent.
    Guest,
}

impl Role {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Host => b"bhatti host proof 1",
            Self::Guest => b"bhatti guest proof 1",
        }
    }
}

/// The proof, in hexadecimal, that `role` holds `token`, made over the other side's nonce.
pub fn prove(token: &[u8], role: Role, peer_nonce: &[u8; 32]) -> String {
    hex::encode(mac(token, role, peer_nonce))
}

/// Whether `proof` is what `role` makes with `token` over `own_nonce`; takes the same time however
/// much of it is right.
pub fn verify(token: &[u8], role: Role, own_nonce: &[u8; 32], proof: &str) -> bool {
    let mut given = [0; 32];
    hex::decode_to_slice(proof, &mut given).is_ok()
        && bool::from(mac(token, role, own_nonce).ct_eq(&given))
}

fn mac(token: &[u8], role: Role, nonce: &[u8; 32]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("any key length");
    mac.update(role.label());
    mac.update(nonce);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(wire: &[u8], piece: usize) -> (Option<Preamble>, Vec<u8>) {
        let mut scanner = Scanner::new();
        let mut rest = wire;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            if let Some(preamble) = scanner.push(now).unwrap() {
                let mut left = scanner.into_rest();
                left.extend_from_slice(rest);
                return (Some(preamble), left);
            }
        }
        (None, Vec::new())
    }

    proptest! {
        #[test]
        fn a_preamble_is_found_after_anything(
            stale in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0..PREAMBLE_LEN,
            nonce: [u8; 32],
            old: [u8; 32],
            after in proptest::collection::vec(any::<u8>(), 0..50),
            piece in 1_usize..100,
        ) {
            let preamble = Preamble { version: VERSION, nonce };
            let mut wire = stale;
            let old = Preamble { version: VERSION, nonce: old }.encode();
            let (came, cut_off) = old.split_at(cut);
            // The new one may happen to begin with the last byte of the old one, which is whole then.
            prop_assume!(cut_off.is_empty() || !preamble.encode().starts_with(cut_off));
            wire.extend_from_slice(came);
            wire.extend_from_slice(&preamble.encode());
            wire.extend_from_slice(&after);
            prop_assert_eq!(scan(&wire, piece), (Some(preamble), after));
        }
    }

    #[test]
    fn a_peer_that_only_sends_garbage_is_given_up_on() {
        let mut scanner = Scanner::new();
        let chunk = vec![MAGIC[0]; 64 * 1024];
        let error = (0..100).find_map(|_| scanner.push(&chunk).err());
        assert_eq!(error, Some(PreambleError::NotFound));
    }

    #[test]
    fn a_proof_is_bound_to_token_role_and_nonce() {
        let (token, nonce) = (b"secret".as_slice(), [7; 32]);
        let proof = prove(token, Role::Host, &nonce);
        assert!(verify(token, Role::Host, &nonce, &proof));
        assert!(!verify(b"other", Role::Host, &nonce, &proof));
        assert!(!verify(token, Role::Guest, &nonce, &proof));
        assert!(!verify(token, Role::Host, &[8; 32], &proof));
        assert!(!verify(token, Role::Host, &nonce, &proof[2..]));
        assert!(!verify(token, Role::Host, &nonce, "not hexadecimal"));
    }
}
