//! TLS to a daemon, over the bytes of a connection.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::wire::Wire;

/// Where distributions keep whom they trust.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A connection, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Encrypts a connection to a host whose certificate comes from whoever is trusted: those in the
/// file, or those that this machine trusts.
pub(super) async fn encrypt(wire: Wire, host: &str, ca: Option<&Path>) -> io::Result<Box<dyn Io>> {
    let config = config(&ca.map_or_else(system, |path| Ok(path.to_owned()))?)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, wire).await?;
    Ok(Box::new(stream))
}

fn system() -> io::Result<PathBuf> {
    let found = SYSTEM.map(PathBuf::from).into_iter().find(|path| path.exists());
    found.ok_or_else(|| io::Error::other("this machine has no list of whom it trusts"))
}

fn config(path: &Path) -> io::Result<ClientConfig> {
    let named = |error: &dyn std::fmt::Display| {
        io::Error::other(format!("certificates in {}: {error}", path.display()))
    };
    let pem = fs::read(path).map_err(|error| named(&error))?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    // A list of many may have some that are of no use here.
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(named(&"there are none"));
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
