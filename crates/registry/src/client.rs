//! What all pulls of a program have in common.

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsConnector;

use crate::{Error, Platform, Reach, Reference, Remote, Resolver, manifest, session::Session};

/// How long registries are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection, and again for TLS.
    pub connect: Duration,
    /// From a request to the beginning of its answer.
    pub answer: Duration,
    /// For the whole of a manifest, configuration or token.
    pub document: Duration,
    /// For the next [`STALL_BYTES`] of a layer.
    pub stall: Duration,
    /// Before a broken download is taken up again; doubled with every failure in a row.
    pub retry: Duration,
}

/// What of a layer has to come within [`Patience::stall`], in bytes.
pub const STALL_BYTES: u64 = 64 << 10;

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            document: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            retry: Duration::from_millis(500),
        }
    }
}

/// How much of a registry's is taken in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A layer as it is downloaded, in bytes.
    pub layer_bytes: u64,
    /// All layers of an image together, in bytes.
    pub image_bytes: u64,
    /// How many layers an image may have.
    pub layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 16 << 30, image_bytes: 32 << 30, layers: 256 }
    }
}

/// Name and password, or name and token, for one registry. Never shown.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// What should be credentials has no colon in it, or nothing before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("credentials are written NAME:PASSWORD")]
pub struct InvalidCredentials;

impl Credentials {
    /// Of a user.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl FromStr for Credentials {
    type Err = InvalidCredentials;

    fn from_str(text: &str) -> Result<Self, InvalidCredentials> {
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() => Ok(Self::new(user, password)),
            _ => Err(InvalidCredentials),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What a client is told once.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where it may connect to.
    pub reach: Reach,
    /// How much it takes in.
    pub limits: Limits,
    /// How long it waits.
    pub patience: Patience,
    /// Authorities that are trusted besides those of this host.
    pub authorities: Vec<CertificateDer<'static>>,
    /// How it finds hosts.
    pub resolver: Resolver,
}

/// What one pull asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image.
    pub reference: Reference,
    /// Who asks; `None` is nobody in particular.
    pub credentials: Option<Credentials>,
    /// What the image has to run on.
    pub platform: Platform,
}

/// Pulls images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client(Shared);

/// What sessions share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) reach: Reach,
    pub(crate) limits: Limits,
    pub(crate) patience: Patience,
    pub(crate) resolver: Resolver,
    pub(crate) tls: TlsConnector,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that trusts whom this host trusts.
    ///
    /// # Errors
    /// If one of [`Options::authorities`] is no certificate.
    pub fn new(options: Options) -> io::Result<Self> {
        let Options { reach, limits, patience, authorities, resolver } = options;
        let tls = crate::connection::tls(authorities)?;
        Ok(Self(Shared { reach, limits, patience, resolver, tls }))
    }

    /// Finds out what a reference means now: manifest and configuration, verified, and what
    /// layers there are. Nothing is stored.
    ///
    /// # Errors
    /// If it cannot be had, or is not an image that this machine can run.
    pub async fn resolve(&self, request: &Request) -> Result<Remote, Error> {
        let Request { reference, credentials, platform } = request;
        let session = Session::start(self.0.clone(), reference, credentials.clone()).await?;
        let image = manifest::resolve(&session, reference, platform, &self.0.limits).await?;
        Ok(Remote::new(Arc::new(session), image))
    }
}
