//! What is kept of an authority: the account there, certificates with their keys, and the ledger. Each
//! authority has a directory of its own, so that changing to another and back loses nothing.

use std::{
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base::{files, hash};
use fs_err as fs;
use instant_acme::AccountCredentials;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::ledger::Ledger;
use crate::tls::{TlsError, pem, x509};

/// Longest name that is the name of a file as it is.
const NAME_MAX: usize = 200;
const ACCOUNT: &str = "account.json";
const LEDGER: &str = "ledger.json";

/// A certificate that can be shown.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) facts: x509::Facts,
    pub(super) shown: Arc<CertifiedKey>,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Keep {
    directory: PathBuf,
}

impl Keep {
    /// The directory of an authority, which is made if it is not there.
    pub(super) fn open(data_dir: &Path, authority: &str) -> Result<Self, TlsError> {
        let number = hash::bytes(authority.as_bytes());
        let directory = data_dir.join("acme").join(&number[..16]);
        let unusable = |source| TlsError::File { path: directory.clone(), source };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory).map_err(unusable)?;
        files::sweep_temporary(&directory).map_err(unusable)?;
        Ok(Self { directory })
    }

    /// All certificates, by what they were asked for first. One that cannot be used is as if it were
    /// not there.
    pub(super) fn certificates(&self) -> Result<Vec<(String, Kept)>, TlsError> {
        let unusable = |source| TlsError::File { path: self.directory.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            match read(&path) {
                Ok((id, kept)) => found.push((id, kept)),
                Err(error) => tracing::warn!("a certificate is left out: {}", base::chain(&error)),
            }
        }
        Ok(found)
    }

    /// Keeps a certificate with its chain, in PEM, and its key.
    pub(super) fn write(&self, id: &str, chain: &str, key: &[u8]) -> Result<Kept, TlsError> {
        let path = self.path(id);
        let text = format!("{}{chain}", pem::encode("PRIVATE KEY", key));
        // Before it replaces what may be better.
        let kept = parse(text.as_bytes(), &path)?;
        files::write_atomic(&path, text.as_bytes(), 0o600)
            .map_err(|source| TlsError::File { path, source })?;
        Ok(kept)
    }

    pub(super) fn remove(&self, id: &str) {
        remove(&self.path(id));
    }

    /// The account, if there is one. One that cannot be read is made anew.
    pub(super) fn account(&self) -> Option<AccountCredentials> {
        let text = fs::read(self.directory.join(ACCOUNT)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn write_account(&self, account: &AccountCredentials) -> Result<(), TlsError> {
        self.write_json(ACCOUNT, serde_json::to_vec(account))
    }

    pub(super) fn forget_account(&self) {
        remove(&self.directory.join(ACCOUNT));
    }

    pub(super) fn ledger(&self) -> Ledger {
        let text = fs::read(self.directory.join(LEDGER)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write_ledger(&self, ledger: &Ledger) -> Result<(), TlsError> {
        self.write_json(LEDGER, serde_json::to_vec(ledger))
    }

    fn write_json(&self, name: &str, text: serde_json::Result<Vec<u8>>) -> Result<(), TlsError> {
        let path = self.directory.join(name);
        let written = text.map_err(io::Error::other);
        let written = written.and_then(|text| files::write_atomic(&path, &text, 0o600));
        written.map_err(|source| TlsError::File { path, source })
    }

    fn path(&self, id: &str) -> PathBuf {
        let name = match id.len() > NAME_MAX {
            true => hash::bytes(id.as_bytes()),
            false => id.replace('*', "_"),
        };
        self.directory.join(format!("{name}.pem"))
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("{error}");
    }
}

fn read(path: &Path) -> Result<(String, Kept), TlsError> {
    let text = fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    let kept = parse(&text, path)?;
    let first = kept.facts.names.first().cloned();
    let id = first.ok_or_else(|| TlsError::Content { path: path.to_owned(), what: "name" })?;
    Ok((id, kept))
}

fn parse(text: &[u8], path: &Path) -> Result<Kept, TlsError> {
    let content = |what| TlsError::Content { path: path.to_owned(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|_| content("certificate"))?;
    let facts = chain.first().and_then(|first| x509::read(first));
    let facts = facts.ok_or_else(|| content("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| content("private key"))?;
    let shown = CertifiedKey::from_der(chain, key, &ring::default_provider());
    Ok(Kept { facts, shown: Arc::new(shown.map_err(TlsError::Pair)?) })
}
