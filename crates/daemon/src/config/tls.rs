//! How listeners are encrypted.

use std::path::PathBuf;

use serde::Deserialize;

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSource {
    /// Nothing is encrypted here.
    Off,
    /// A certificate with its chain and its key, in PEM; read again when they change.
    Files {
        /// The certificate, then those that vouch for it.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// This node's own authority, which nobody trusts who was not told to.
    LocalCa,
    /// An authority that is asked by ACME; how is in [`AcmeConfig`](super::AcmeConfig).
    Acme,
}

/// The same, as it is written in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawTls {
    /// See [`TlsSource::Off`].
    Off,
    /// See [`TlsSource::LocalCa`].
    LocalCa,
    /// See [`TlsSource::Acme`].
    Acme,
    /// What the rest says.
    #[default]
    Auto,
}

/// What the file or the flags say of one listener.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) tls: RawTls,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl Said {
    /// Where certificates come from; by default from the node's own authority, if other machines
    /// reach the listener. An error says what does not go together.
    pub(super) fn source(self, reached: bool) -> Result<TlsSource, &'static str> {
        match (self.tls, self.cert, self.key) {
            (RawTls::Auto, Some(cert), Some(key)) => Ok(TlsSource::Files { cert, key }),
            (RawTls::Auto, None, None) if reached => Ok(TlsSource::LocalCa),
            (RawTls::Auto | RawTls::Off, None, None) => Ok(TlsSource::Off),
            (RawTls::LocalCa, None, None) => Ok(TlsSource::LocalCa),
            (RawTls::Acme, None, None) => Ok(TlsSource::Acme),
            (_, Some(_), None) | (_, None, Some(_)) => {
                Err("a certificate needs its key, and a key its certificate")
            }
            (RawTls::Off | RawTls::LocalCa | RawTls::Acme, Some(_), Some(_)) => {
                Err("there is a certificate, but tls says that another or none is to be used")
            }
        }
    }
}
