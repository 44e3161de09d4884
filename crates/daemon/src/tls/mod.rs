//! Certificates, and the listeners that show them.
//!
//! A source of certificates is whatever answers rustls' question which one to show for a name:
//! files of the operator's, or this node's own authority. It is asked at every handshake, so a
//! source may change its mind at any time and no listener has to be told.

mod authority;
mod files;
mod pem;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig, crypto::ring, server::ResolvesServerCert, version::TLS12, version::TLS13,
};

pub use self::authority::certificate_path;
use self::{authority::Authority, files::Files};
use crate::{
    config::{Config, TlsSource},
    connections::{HTTP1, HTTP2},
};

/// Why a listener cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("the certificate and its key cannot be used")]
    Pair(#[source] rustls::Error),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
}

/// How the listeners are encrypted, as far as they are.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) api: Option<Arc<ServerConfig>>,
    pub(crate) public: Option<Arc<ServerConfig>>,
}

impl Certificates {
    /// Reads or makes what the configuration wants.
    pub(crate) fn new(config: &Config) -> Result<Self, TlsError> {
        let authority = |zone: Option<&str>| -> Result<Arc<dyn ResolvesServerCert>, TlsError> {
            Ok(Arc::new(Authority::open(&config.data_dir, zone)?))
        };
        let source = |tls: &TlsSource, zone: Option<&str>| match tls {
            TlsSource::Off => Ok(None),
            TlsSource::LocalCa => authority(zone).map(Some),
            TlsSource::Files { cert, key } => {
                let files: Arc<dyn ResolvesServerCert> = Arc::new(Files::open(cert, key)?);
                Ok(Some(files))
            }
        };
        // An address of nobody needs no certificate.
        let api = match config.listen {
            Some(_) => source(&config.tls, None)?,
            None => None,
        };
        let public = match &config.public {
            Some(public) => source(&public.tls, public.zone.as_deref())?,
            None => None,
        };
        let api = api.map(|source| server_config(source, &[HTTP1])).transpose()?;
        let public = public.map(|source| server_config(source, &[HTTP2, HTTP1])).transpose()?;
        Ok(Self { api, public })
    }
}

/// What a listener does with a source.
fn server_config(
    source: Arc<dyn ResolvesServerCert>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Pair)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(source);
    // They would be read at a time when our client expects nothing.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}
