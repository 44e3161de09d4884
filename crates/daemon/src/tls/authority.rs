//! This node's own authority, for development: made once, kept in the data directory, and trusted by
//! whoever is told to. Its certificates are made when somebody connects, and anew long before they
//! end or when the host's addresses are others.

use std::{
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base::{clock, files};
use fs_err as fs;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{TlsError, addresses, pem, x509};

const DAY: i64 = 24 * 3600;
/// How long the authority is good for, days.
const AUTHORITY_DAYS: i64 = 3650;
/// How long before its end the authority says anew who it is, days.
const AUTHORITY_EARLY_DAYS: i64 = 400;
/// How long its certificates are good for, days.
const LEAF_DAYS: i64 = 90;
/// How long before its end a certificate is made anew, days.
const EARLY_DAYS: i64 = 30;
/// Most names that certificates are kept for.
const MOST_NAMES: usize = 64;

/// Where the authority's certificate lies, if it was ever needed.
pub fn certificate_path(data_dir: &Path) -> PathBuf {
    data_dir.join("ca/cert.pem")
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The key of all its certificates.
    key: KeyPair,
    zone: Option<String>,
    /// Where the listener is that they are for.
    listen: Option<IpAddr>,
    /// When the authority itself ends, Unix seconds.
    pub(super) not_after: i64,
    /// The one that was asked for last is the last.
    made: Mutex<Vec<Made>>,
}

struct Made {
    names: Vec<String>,
    shown: Arc<CertifiedKey>,
    /// Unix seconds.
    end: i64,
}

impl Authority {
    /// Takes up the authority of a data directory, or makes it.
    pub(super) fn open(
        data_dir: &Path,
        zone: Option<&str>,
        listen: Option<IpAddr>,
    ) -> Result<Self, TlsError> {
        let path = data_dir.join("ca/key.pem");
        let unusable = |path: &Path, source| TlsError::File { path: path.to_owned(), source };
        let key = match fs::read(&path) {
            Ok(pem) => {
                let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).ok();
                let key = der.and_then(|der| KeyPair::try_from(&der).ok());
                key.ok_or_else(|| TlsError::Content { path, what: "private key" })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(TlsError::Make)?;
                fs::create_dir_all(data_dir.join("ca")).map_err(|e| unusable(&path, e))?;
                let text = pem::encode("PRIVATE KEY", &key.serialize_der());
                files::write_atomic(&path, text.as_bytes(), 0o600)
                    .map_err(|e| unusable(&path, e))?;
                key
            }
            Err(error) => return Err(unusable(&path, error)),
        };
        let params = authority(&key)?;
        let not_after = publish(&certificate_path(data_dir), &params, &key)?;
        let (issuer, zone) = (Issuer::new(params, key), zone.map(str::to_owned));
        let key = KeyPair::generate().map_err(TlsError::Make)?;
        Ok(Self { issuer, key, zone, listen, not_after, made: Mutex::default() })
    }

    /// A certificate for whoever asks for that name, or for none.
    pub(super) fn for_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match self.current(name, clock::unix_seconds(), &addresses::reached_at(self.listen)) {
            Ok(certificate) => Some(certificate),
            Err(error) => {
                tracing::warn!("no certificate for a client: {}", base::chain(&error));
                None
            }
        }
    }

    fn current(
        &self,
        name: Option<&str>,
        now: i64,
        addresses: &[IpAddr],
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        let names = self.names(name, addresses);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = made.iter().position(|one| one.names == names) {
            let found = made.remove(at);
            if now < found.end - EARLY_DAYS * DAY {
                let shown = Arc::clone(&found.shown);
                made.push(found);
                return Ok(shown);
            }
        }
        let (shown, end) = self.make(names.clone(), now)?;
        if made.len() >= MOST_NAMES {
            made.remove(0);
        }
        made.push(Made { names, shown: Arc::clone(&shown), end });
        Ok(shown)
    }

    /// What a certificate names that is shown to who asks for a name.
    fn names(&self, name: Option<&str>, addresses: &[IpAddr]) -> Vec<String> {
        let name = name.unwrap_or("localhost").to_ascii_lowercase();
        let wildcard = self.zone.as_ref().filter(|zone| {
            name == **zone || name.strip_suffix(zone.as_str()).is_some_and(|n| n.ends_with('.'))
        });
        match wildcard {
            Some(zone) => vec![zone.clone(), format!("*.{zone}")],
            None => own_names(&name, addresses),
        }
    }

    fn make(&self, names: Vec<String>, now: i64) -> Result<(Arc<CertifiedKey>, i64), TlsError> {
        let end = now + LEAF_DAYS * DAY;
        let mut params = CertificateParams::new(names.clone()).map_err(TlsError::Make)?;
        let common = names.into_iter().next().unwrap_or_default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // A day earlier, for clocks that are behind.
        good_from_to(&mut params, now - DAY, end);
        let cert = params.signed_by(&self.key, &self.issuer).map_err(TlsError::Make)?;
        let secret = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let chain = vec![cert.der().clone()];
        let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider());
        Ok((Arc::new(pair.map_err(TlsError::Pair)?), end))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("zone", &self.zone).finish_non_exhaustive()
    }
}

/// Writes the certificate of the authority, unless one of the same key is there that is good for
/// long enough. Returns when it ends, Unix seconds.
fn publish(path: &Path, params: &CertificateParams, key: &KeyPair) -> Result<i64, TlsError> {
    let unusable = |source| TlsError::File { path: path.to_owned(), source };
    let there = match fs::read(path) {
        Ok(pem) => CertificateDer::from_pem_slice(&pem).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unusable(error)),
    };
    let there = there.and_then(|der| x509::read(&der));
    let early = clock::unix_seconds() + AUTHORITY_EARLY_DAYS * DAY;
    if let Some(facts) = &there
        && facts.key == key.subject_public_key_info()
        && facts.not_after > early
    {
        return Ok(facts.not_after);
    }
    if there.is_some() {
        let path = path.display();
        tracing::warn!("the node's own authority has a new certificate in {path}: trust that one");
    }
    let cert = params.self_signed(key).map_err(TlsError::Make)?;
    let text = pem::encode("CERTIFICATE", cert.der());
    files::write_atomic(path, text.as_bytes(), 0o644).map_err(unusable)?;
    Ok(x509::read(cert.der()).map_or(early, |facts| facts.not_after))
}

/// What the authority says of itself. The same key always says the same, so only the key matters.
fn authority(key: &KeyPair) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(TlsError::Make)?;
    let number = base::hash::bytes(key.public_key_raw());
    let name = format!("bhatti local authority {}", &number[..8]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = clock::unix_seconds();
    good_from_to(&mut params, now - DAY, now + AUTHORITY_DAYS * DAY);
    Ok(params)
}

/// A name and what this host is called otherwise.
fn own_names(name: &str, addresses: &[IpAddr]) -> Vec<String> {
    let node = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let mut names = vec![name.to_owned(), "localhost".to_owned(), node];
    names.extend(["127.0.0.1", "::1"].map(str::to_owned));
    names.extend(addresses.iter().map(ToString::to_string));
    let mut seen = std::collections::BTreeSet::new();
    // What is no name could not be in a certificate.
    names.retain(|name| name.is_ascii() && !name.is_empty() && seen.insert(name.clone()));
    names
}

/// Sets how long a certificate is good for, in whole days.
fn good_from_to(params: &mut CertificateParams, from: i64, to: i64) {
    let day = |seconds| {
        let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let number = |value: i8| u8::try_from(value).unwrap_or(1);
        date_time_ymd(i32::from(date.year()), number(date.month()), number(date.day()))
    };
    (params.not_before, params.not_after) = (day(from), day(to));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(shown: &CertifiedKey) -> x509::Facts {
        x509::read(&shown.cert[0]).unwrap()
    }

    #[test]
    fn a_certificate_names_where_the_listener_is_and_follows_the_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let far: IpAddr = "192.0.2.7".parse().unwrap();
        let authority = Authority::open(dir.path(), None, Some(far)).unwrap();
        let shown = authority.for_name(None).unwrap();
        assert!(facts(&shown).names.contains(&"192.0.2.7".to_owned()));
        assert!(Arc::ptr_eq(&shown, &authority.for_name(None).unwrap()), "made once");
        let now = clock::unix_seconds();
        let moved: IpAddr = "192.0.2.8".parse().unwrap();
        let after = authority.current(None, now, &[moved]).unwrap();
        let names = facts(&after).names;
        assert!(names.contains(&"192.0.2.8".to_owned()) && !names.contains(&far.to_string()));
        let late = authority.current(None, now + (LEAF_DAYS - EARLY_DAYS) * DAY, &[moved]).unwrap();
        assert!(!Arc::ptr_eq(&after, &late), "made anew before it ends");
        assert_eq!(facts(&late).key, facts(&shown).key, "there is one key");
    }

    #[test]
    fn names_of_strangers_do_not_push_out_the_ones_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), Some("pub.example"), None).unwrap();
        let used = authority.for_name(Some("web.pub.example")).unwrap();
        for n in 0..2 * MOST_NAMES {
            authority.for_name(Some(&format!("n{n}.example"))).unwrap();
            let again = authority.for_name(Some("other.pub.example")).unwrap();
            assert!(Arc::ptr_eq(&used, &again));
        }
        assert_eq!(authority.made.lock().unwrap().len(), MOST_NAMES);
    }

    #[test]
    fn the_authority_says_who_it_is_again_when_its_key_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Authority::open(dir.path(), None, None).unwrap();
        let read = || fs::read(certificate_path(dir.path())).unwrap();
        open();
        let first = read();
        open();
        assert_eq!(read(), first);
        fs::remove_file(dir.path().join("ca/key.pem")).unwrap();
        let authority = open();
        let second = CertificateDer::from_pem_slice(&read()).unwrap();
        assert_ne!(read(), first);
        let signer = authority.issuer.key().subject_public_key_info();
        assert_eq!(x509::read(&second).unwrap().key, signer);
    }
}
