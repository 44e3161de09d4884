//! What the authority is answered that looks whether a name is ours. Each answer is there for as long
//! as it is waited for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use super::AcmeError;
use crate::tls::TlsError;

/// Where answers over plain HTTP are found; the token follows.
const PATH: &str = "/.well-known/acme-challenge/";

/// What is answered now.
#[derive(Debug, Default)]
pub(in crate::tls) struct Answers(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By token.
    http: HashMap<String, String>,
    /// By name.
    tls: HashMap<String, Arc<CertifiedKey>>,
}

/// An answer, which goes with it.
#[derive(Debug)]
pub(super) struct Answer {
    table: Arc<Mutex<Table>>,
    key: String,
}

impl Answers {
    /// Answers over plain HTTP.
    pub(super) fn over_http(&self, token: &str, answer: &str) -> Answer {
        lock(&self.0).http.insert(token.to_owned(), answer.to_owned());
        Answer { table: Arc::clone(&self.0), key: token.to_owned() }
    }

    /// Answers with a certificate that has the digest in it.
    pub(super) fn over_tls(&self, name: &str, digest: &[u8]) -> Result<Answer, AcmeError> {
        let made = |error| AcmeError::Certificate(TlsError::Make(error));
        let key = KeyPair::generate().map_err(made)?;
        let mut params = CertificateParams::new([name.to_owned()]).map_err(made)?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let cert = params.self_signed(&key).map_err(made)?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![cert.der().clone()];
        // Whether the two belong together is not looked at, because the certificate cannot be read:
        // what only an authority understands is said to be critical.
        let key = ring::default_provider()
            .key_provider
            .load_private_key(secret)
            .map_err(|error| AcmeError::Certificate(TlsError::Pair(error)))?;
        let pair = CertifiedKey::new(chain, key);
        lock(&self.0).tls.insert(name.to_owned(), Arc::new(pair));
        Ok(Answer { table: Arc::clone(&self.0), key: name.to_owned() })
    }

    /// What is said to who asks for a path over plain HTTP.
    pub(super) fn http(&self, path: &str) -> Option<String> {
        lock(&self.0).http.get(path.strip_prefix(PATH)?).cloned()
    }

    /// What is shown to who asks for a name with the authority's own protocol.
    pub(super) fn tls(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        lock(&self.0).tls.get(name).cloned()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.http.remove(&self.key);
        table.tls.remove(&self.key);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
