//! This node's own authority, for development: made once, kept in the data directory, and trusted by
//! whoever is told to. Its certificates are made when somebody connects, and anew long before they
//! end.

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base::{clock, files};
use fs_err as fs;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{TlsError, pem};

const DAY: i64 = 24 * 3600;
/// How long the authority is good for, days.
const AUTHORITY_DAYS: i64 = 3650;
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
    zone: Option<String>,
    /// Certificates by name, with their ends in Unix seconds.
    made: Mutex<HashMap<String, (Arc<CertifiedKey>, i64)>>,
}

impl Authority {
    /// Takes up the authority of a data directory, or makes it.
    pub(super) fn open(data_dir: &Path, zone: Option<&str>) -> Result<Self, TlsError> {
        let (path, cert_path) = (data_dir.join("ca/key.pem"), certificate_path(data_dir));
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
        if !cert_path.exists() {
            let cert = params.self_signed(&key).map_err(TlsError::Make)?;
            let text = pem::encode("CERTIFICATE", cert.der());
            files::write_atomic(&cert_path, text.as_bytes(), 0o644)
                .map_err(|e| unusable(&cert_path, e))?;
        }
        let (issuer, zone) = (Issuer::new(params, key), zone.map(str::to_owned));
        Ok(Self { issuer, zone, made: Mutex::default() })
    }

    /// A certificate for whoever asks for that name, or for none.
    fn for_name(&self, name: Option<&str>, now: i64) -> Result<Arc<CertifiedKey>, TlsError> {
        let name = name.unwrap_or("localhost").to_ascii_lowercase();
        let wildcard = self.zone.as_ref().filter(|zone| {
            name == **zone || name.strip_suffix(zone.as_str()).is_some_and(|n| n.ends_with('.'))
        });
        let key = wildcard.map_or_else(|| name.clone(), |zone| format!("*.{zone}"));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((found, end)) = made.get(&key)
            && now < end - EARLY_DAYS * DAY
        {
            return Ok(Arc::clone(found));
        }
        let names = match wildcard {
            Some(zone) => vec![zone.clone(), format!("*.{zone}")],
            None => own_names(&name),
        };
        let (leaf, end) = self.make(names, now)?;
        if made.len() >= MOST_NAMES {
            made.clear();
        }
        made.insert(key, (Arc::clone(&leaf), end));
        Ok(leaf)
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
        let key = KeyPair::generate().map_err(TlsError::Make)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(TlsError::Make)?;
        let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain = vec![cert.der().clone()];
        let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider());
        Ok((Arc::new(pair.map_err(TlsError::Pair)?), end))
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.for_name(hello.server_name(), clock::unix_seconds()) {
            Ok(certificate) => Some(certificate),
            Err(error) => {
                tracing::warn!("no certificate for a client: {}", base::chain(&error));
                None
            }
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("zone", &self.zone).finish_non_exhaustive()
    }
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
fn own_names(name: &str) -> Vec<String> {
    let node = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let mut names = vec![name.to_owned(), "localhost".to_owned(), node];
    names.extend(["127.0.0.1", "::1"].map(str::to_owned));
    names.extend(own_addresses().iter().map(ToString::to_string));
    let mut seen = std::collections::BTreeSet::new();
    // What is no name could not be in a certificate.
    names.retain(|name| name.is_ascii() && !name.is_empty() && seen.insert(name.clone()));
    names
}

/// The address by which other hosts most likely reach this one. Nothing is sent for it.
fn own_addresses() -> Vec<IpAddr> {
    let routed = |bind: &str, far: &str| -> io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(bind)?;
        socket.connect(far)?;
        Ok(socket.local_addr()?.ip())
    };
    let both = [routed("0.0.0.0:0", "192.0.2.1:9"), routed("[::]:0", "[2001:db8::1]:9")];
    both.into_iter().flatten().collect()
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
