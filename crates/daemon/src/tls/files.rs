//! A certificate in files of the operator's. They are looked at again when somebody connects, at most
//! once a second; what is wrong with new ones is in the log, and the old ones go on being shown.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fs_err as fs;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::time::timeout;

use super::{TlsError, x509};

/// How long what was found is believed.
const FRESH: Duration = Duration::from_secs(1);
/// How long a handshake waits for files that are slow to read.
const READ_TIME: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Files {
    cert: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
    /// Held by who looks at the files.
    looking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct State {
    shown: Arc<CertifiedKey>,
    facts: x509::Facts,
    /// What the files looked like when they were last read with success.
    read: Stamps,
    looked: Instant,
    /// Why what the files look like now is not shown.
    problem: Option<(Stamps, String)>,
}

/// What tells that a file was changed or replaced: when its content and its properties were, how long
/// it is, and which one it is; `None` for one that is not there.
type Stamps = [Option<[i64; 6]>; 2];

impl Files {
    pub(super) fn open(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        // First, so that a change while they are read is seen.
        let read = stamps(cert, key);
        let (shown, facts) = read_pair(cert, key)?;
        let state = State { shown, facts, read, looked: Instant::now(), problem: None };
        let (cert, key) = (cert.to_owned(), key.to_owned());
        Ok(Self { cert, key, state: Mutex::new(state), looking: Arc::default() })
    }

    /// What is shown now.
    pub(super) fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.state().shown)
    }

    /// What is shown now says of itself, and why it is not what is in the files.
    pub(super) fn facts(&self) -> (x509::Facts, Option<String>) {
        let state = self.state();
        (state.facts.clone(), state.problem.as_ref().map(|(_, why)| why.clone()))
    }

    /// Looks at the files again, if nobody has for a second. Nobody waits for long: where the files
    /// are may not answer.
    pub(super) async fn refresh(self: &Arc<Self>) {
        if self.state().looked.elapsed() < FRESH {
            return;
        }
        let Ok(looking) = Arc::clone(&self.looking).try_lock_owned() else { return };
        let files = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            files.look(Instant::now());
            drop(looking);
        });
        let _ = timeout(READ_TIME, looked).await;
    }

    fn look(&self, now: Instant) {
        let found = stamps(&self.cert, &self.key);
        let changed = {
            let mut state = self.state();
            state.looked = now;
            found != state.read
        };
        if !changed {
            self.state().problem = None;
            return;
        }
        // It may be that only one of the two was replaced so far, or that who may read them is still
        // to be set: what did not work is tried again each time.
        let read = read_pair(&self.cert, &self.key);
        let mut state = self.state();
        match read {
            Ok((shown, facts)) => {
                (state.shown, state.facts, state.read, state.problem) = (shown, facts, found, None);
                tracing::info!("the certificate in {} is shown now", self.cert.display());
            }
            Err(error) => {
                let problem = Some((found, base::chain(&error)));
                if state.problem != problem {
                    let why = base::chain(&error);
                    tracing::warn!("the changed certificate is not shown, but the old one: {why}");
                }
                state.problem = problem;
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(cert: &Path, key: &Path) -> Stamps {
    [cert, key].map(|path| {
        let found = fs::metadata(path).ok()?;
        let (inode, length) = (found.ino().cast_signed(), found.len().cast_signed());
        let content = [found.mtime(), found.mtime_nsec()];
        Some([content[0], content[1], found.ctime(), found.ctime_nsec(), inode, length])
    })
}

fn read_pair(cert: &Path, key: &Path) -> Result<(Arc<CertifiedKey>, x509::Facts), TlsError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
    };
    let content = |path: &Path, what| TlsError::Content { path: path.to_owned(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|_| content(cert, "certificate"))?;
    let facts = chain.first().and_then(|first| x509::read(first));
    let facts = facts.ok_or_else(|| content(cert, "certificate"))?;
    let secret =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| content(key, "private key"))?;
    let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider());
    Ok((Arc::new(pair.map_err(TlsError::Pair)?), facts))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

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

    fn open(dir: &Path) -> Result<Files, TlsError> {
        Files::open(&dir.join("cert"), &dir.join("key"))
    }

    fn looked(files: &Files) -> Vec<u8> {
        files.look(Instant::now());
        files.shown().cert[0].to_vec()
    }

    #[test]
    fn a_changed_certificate_is_shown_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "one.example");
        let files = open(dir.path()).unwrap();
        assert_eq!(looked(&files), first);
        fs::write(dir.path().join("cert"), "nonsense").unwrap();
        assert_eq!(looked(&files), first);
        assert!(files.facts().1.unwrap().contains("no certificate in PEM"));
        let second = write(dir.path(), "longer-name.example");
        assert_eq!(looked(&files), second);
        assert_eq!(files.facts().0.names, ["longer-name.example"]);
        assert_eq!(files.facts().1, None);
        fs::remove_file(dir.path().join("key")).unwrap();
        assert_eq!(looked(&files), second);
        assert!(files.facts().1.unwrap().contains("key"));
    }

    #[test]
    fn what_could_not_be_read_once_is_tried_again_without_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "one.example");
        let files = open(dir.path()).unwrap();
        let second = write(dir.path(), "two.example");
        // As with a key that only gets its owner later: content and time of change stay.
        let (key, aside) = (dir.path().join("key"), dir.path().join("aside"));
        fs::rename(&key, &aside).unwrap();
        assert_eq!(looked(&files), first);
        fs::rename(&aside, &key).unwrap();
        assert_eq!(looked(&files), second);
        let before = stamps(&dir.path().join("cert"), &key);
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let after = stamps(&dir.path().join("cert"), &key);
        assert_ne!(before, after, "a change of who may read it is seen");
    }

    #[tokio::test]
    async fn files_that_nobody_looked_at_for_a_second_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "one.example");
        let files = Arc::new(open(dir.path()).unwrap());
        let second = write(dir.path(), "two.example");
        files.refresh().await;
        assert_eq!(*files.shown().cert[0], first, "not yet looked at");
        files.state().looked = Instant::now().checked_sub(FRESH).unwrap();
        files.refresh().await;
        assert_eq!(*files.shown().cert[0], second);
    }

    #[test]
    fn what_cannot_be_used_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        assert!(matches!(open(dir.path()), Err(TlsError::File { .. })));
        write(dir.path(), "one.example");
        let text = fs::read(&key).unwrap();
        fs::write(&key, "").unwrap();
        assert!(matches!(open(dir.path()), Err(TlsError::Content { .. })));
        write(dir.path(), "two.example");
        fs::write(&key, text).unwrap();
        assert!(matches!(open(dir.path()), Err(TlsError::Pair(_))));
    }
}
