//! A certificate in files of the operator's. They are looked at again when somebody connects, at most
//! once a second; what is wrong with new ones is in the log, and the old ones go on being shown.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use fs_err as fs;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::TlsError;

/// How long what was found is believed.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Files {
    cert: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shown: Arc<CertifiedKey>,
    /// What the files looked like when they were read last, with success or not.
    read: Stamps,
    looked: Instant,
}

/// When two files changed last and how long they are; `None` for one that is not there.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl Files {
    pub(super) fn open(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        // First, so that a change while they are read is seen.
        let read = stamps(cert, key);
        let shown = Arc::new(read_pair(cert, key)?);
        let state = Mutex::new(State { shown, read, looked: Instant::now() });
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), state })
    }

    fn current(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.looked) >= FRESH {
            state.looked = now;
            let found = stamps(&self.cert, &self.key);
            if found != state.read {
                state.read = found;
                self.read_again(&mut state);
            }
        }
        Arc::clone(&state.shown)
    }

    fn read_again(&self, state: &mut State) {
        match read_pair(&self.cert, &self.key) {
            Ok(pair) => {
                state.shown = Arc::new(pair);
                tracing::info!("the certificate in {} is shown now", self.cert.display());
            }
            Err(error) => {
                let why = base::chain(&error);
                tracing::warn!("the changed certificate is not shown, but the old one: {why}");
            }
        }
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(Instant::now()))
    }
}

fn stamps(cert: &Path, key: &Path) -> Stamps {
    [cert, key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
    };
    let content = |path: &Path, what| TlsError::Content { path: path.to_owned(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|_| content(cert, "certificate"))?;
    if chain.is_empty() {
        return Err(content(cert, "certificate"));
    }
    let secret =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| content(key, "private key"))?;
    CertifiedKey::from_der(chain, secret, &ring::default_provider()).map_err(TlsError::Pair)
}

#[cfg(test)]
mod tests {
    use super::{super::pem, *};

    /// Writes a certificate for a name, as a tool does that renews one.
    fn write(dir: &Path, name: &str) -> Vec<u8> {
        let pair = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let der = made.self_signed(&pair).unwrap().der().to_vec();
        fs::write(dir.join("key"), pem::encode("PRIVATE KEY", &pair.serialize_der())).unwrap();
        fs::write(dir.join("cert"), pem::encode("CERTIFICATE", &der)).unwrap();
        der
    }

    #[test]
    fn a_changed_certificate_is_shown_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "one.example");
        let files = Files::open(&dir.path().join("cert"), &dir.path().join("key")).unwrap();
        let begin = Instant::now();
        let shown = |seconds| files.current(begin + Duration::from_secs(seconds)).cert[0].to_vec();
        assert_eq!(shown(2), first);
        fs::write(dir.path().join("cert"), "nonsense").unwrap();
        assert_eq!(shown(4), first);
        let second = write(dir.path(), "longer-name.example");
        assert_eq!(shown(4), first, "not yet looked at");
        assert_eq!(shown(6), second);
        fs::remove_file(dir.path().join("key")).unwrap();
        assert_eq!(shown(8), second);
    }

    #[test]
    fn what_cannot_be_used_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
        assert!(matches!(Files::open(&cert, &key), Err(TlsError::File { .. })));
        write(dir.path(), "one.example");
        let text = fs::read(&key).unwrap();
        fs::write(&key, "").unwrap();
        assert!(matches!(Files::open(&cert, &key), Err(TlsError::Content { .. })));
        write(dir.path(), "two.example");
        fs::write(&key, text).unwrap();
        assert!(matches!(Files::open(&cert, &key), Err(TlsError::Pair(_))));
    }
}
