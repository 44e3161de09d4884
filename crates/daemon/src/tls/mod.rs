//! Certificates, and the listeners that show them.
//!
//! A source of certificates is asked at every handshake which one to show for a name: files of the
//! operator's, this node's own authority, or one that is asked by ACME. It may change its mind at any
//! time, and no listener has to be told. Before the handshake goes on it is given time to look at files or
//! to have a certificate made, so that nothing blocks in between.

mod acme;
mod addresses;
mod authority;
mod files;
mod pem;
mod state;
mod x509;

use std::{collections::HashSet, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use api::CertificateState;
use base::clock;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{Acceptor, ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS12,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

pub(crate) use self::acme::Acme;
pub use self::authority::certificate_path;
use self::{acme::ACME_TLS, authority::Authority, files::Files, state::State};
use crate::{
    config::{Config, TlsSource},
    connections::{HTTP1, HTTP2, stopped},
};

/// How long a client may take for either half of a handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a handshake waits for a certificate that is being made.
const MAKING_TIME: Duration = Duration::from_secs(30);
/// How often it is looked whether a certificate is near its end.
const WATCH_TIME: Duration = Duration::from_secs(3600);
/// How often the same is warned of, in times that it is looked.
const WARN_EVERY: u32 = 24;

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
    /// There is no table `[acme]`, which nobody can have configured.
    #[error("nothing says how certificates are had by ACME")]
    NoAcme,
}

/// Where certificates come from.
#[derive(Debug)]
enum Source {
    Files(Arc<Files>),
    Authority(Box<Authority>),
    Acme(Arc<Acme>),
}

impl Source {
    /// Gives it time to have the certificate that is going to be shown.
    async fn ready(&self, name: Option<&str>) {
        match (self, name) {
            (Self::Files(files), _) => files.refresh().await,
            (Self::Acme(acme), Some(name)) => acme.ready(name).await,
            (Self::Acme(_), None) | (Self::Authority(_), _) => {}
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Authority(_) => "local-ca",
            Self::Acme(_) => "acme",
        }
    }

    fn states(&self) -> Vec<State> {
        let one = |names, not_after, problem| {
            vec![State { names, not_after: Some(not_after), problem, next_try_at: None }]
        };
        match self {
            Self::Files(files) => {
                let (facts, problem) = files.facts();
                one(facts.names, facts.not_after, problem)
            }
            Self::Authority(authority) => one(Vec::new(), authority.not_after, None),
            Self::Acme(acme) => acme.states(),
        }
    }
}

impl ResolvesServerCert for Source {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Files(files) => Some(files.shown()),
            Self::Authority(authority) => authority.for_name(hello.server_name()),
            Self::Acme(acme) => acme.resolve(&hello),
        }
    }
}

/// How a listener is encrypted.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    config: Arc<ServerConfig>,
    source: Arc<Source>,
}

impl Tls {
    fn new(source: Source, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let source = Arc::new(source);
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Pair)?;
        let shown: Arc<dyn ResolvesServerCert> = Arc::<Source>::clone(&source);
        let mut config = builder.with_no_client_auth().with_cert_resolver(shown);
        // They would be read at a time when our client expects nothing.
        config.send_tls13_tickets = 0;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        if matches!(&*source, Source::Acme(acme) if acme.is_asked_over_tls()) {
            config.alpn_protocols.push(ACME_TLS.to_vec());
        }
        Ok(Self { config: Arc::new(config), source })
    }

    /// Takes a connection. `None` if it was an authority's look, which ends with the handshake.
    ///
    /// # Errors
    /// Of the connection, [`io::ErrorKind::TimedOut`], or what the client did wrong.
    pub(crate) async fn accept<IO>(&self, stream: IO) -> io::Result<Option<TlsStream<IO>>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let begun = timeout(HANDSHAKE_TIME, begun).await??;
        let name = {
            let hello = begun.client_hello();
            let name = hello.server_name().map(str::to_owned);
            name.filter(|_| !acme::is_authority(&hello))
        };
        // If it takes too long what there is has to do.
        let _ = timeout(MAKING_TIME, self.source.ready(name.as_deref())).await;
        let stream = begun.into_stream(Arc::clone(&self.config));
        let stream = timeout(HANDSHAKE_TIME, stream).await??;
        let is_look = stream.get_ref().1.alpn_protocol() == Some(ACME_TLS);
        Ok((!is_look).then_some(stream))
    }
}

/// How the listeners are encrypted, as far as they are.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) api: Option<Tls>,
    pub(crate) public: Option<Tls>,
    /// What is asked by ACME, if a listener wants it.
    pub(crate) acme: Option<Arc<Acme>>,
}

impl Certificates {
    /// Reads or makes what the configuration wants.
    pub(crate) fn new(config: &Config) -> Result<Self, TlsError> {
        let acme =
            config.acme.as_ref().map(|acme| Acme::open(acme, &config.data_dir)).transpose()?;
        let source = |tls: &TlsSource, zone: Option<&str>, listen: IpAddr| match tls {
            TlsSource::Off => Ok(None),
            TlsSource::LocalCa => {
                let authority = Authority::open(&config.data_dir, zone, Some(listen));
                authority.map(|authority| Some(Source::Authority(Box::new(authority))))
            }
            TlsSource::Files { cert, key } => {
                Files::open(cert, key).map(|files| Some(Source::Files(Arc::new(files))))
            }
            TlsSource::Acme => acme.clone().map(Source::Acme).map(Some).ok_or(TlsError::NoAcme),
        };
        // An address of nobody needs no certificate.
        let api = match config.listen {
            Some(listen) => source(&config.tls, None, listen.ip())?,
            None => None,
        };
        let public = match &config.public {
            Some(public) => source(&public.tls, public.zone.as_deref(), public.listen.ip())?,
            None => None,
        };
        let api = api.map(|source| Tls::new(source, &[HTTP1])).transpose()?;
        let public = public.map(|source| Tls::new(source, &[HTTP2, HTTP1])).transpose()?;
        Ok(Self { api, public, acme })
    }

    fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        let api = self.api.as_ref().map(|tls| ("api", &*tls.source));
        let public = self.public.as_ref().map(|tls| ("public", &*tls.source));
        api.into_iter().chain(public)
    }

    /// Each certificate with the source that it comes from and the listeners that show it.
    fn each(&self) -> Vec<(Vec<&'static str>, &'static str, State)> {
        let mut found: Vec<(Vec<&str>, &str, State)> = Vec::new();
        for (listener, source) in self.sources() {
            for state in source.states() {
                let known = found
                    .iter_mut()
                    .find(|(_, name, one)| *name == source.name() && one.names == state.names);
                match known {
                    Some((listeners, ..)) => listeners.push(listener),
                    None => found.push((vec![listener], source.name(), state)),
                }
            }
        }
        found
    }

    /// How they are doing, for who asks.
    pub(crate) fn states(&self) -> Vec<CertificateState> {
        let each = self.each().into_iter();
        each.map(|(listeners, source, state)| state.shown(&listeners, source)).collect()
    }

    /// Looks at them from time to time until `stop` says so, also while nobody connects, and warns of
    /// what is near its end.
    pub(crate) async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        for round in 0_u32.. {
            for (_, source) in self.sources() {
                if let Source::Files(files) = source {
                    files.refresh().await;
                }
            }
            let now = clock::unix_seconds();
            let worries = self.each().into_iter().filter_map(|(_, _, state)| state.worry(now));
            // Both listeners may show the same.
            let worries: HashSet<String> = worries.collect();
            if round % WARN_EVERY == 0 {
                worries.iter().for_each(|worry| tracing::warn!("{worry}"));
            }
            if timeout(WATCH_TIME, stopped(&mut stop)).await.is_ok() {
                return;
            }
        }
    }
}
