//! From configuration to a running daemon and to its end.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use orchestrator::{NodeInfo, Orchestrator, Settings};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    app::{self, App, WithPublic},
    config::{Config, DEFAULT_LISTEN},
    connections::{self, Listener, PerClient, Service},
    limits,
    listen::{DataDir, LocalSocket, bind_tcp},
    notify,
    public::{Origin, PublicListener},
    tls::{Certificates, TlsError},
};

/// Most connections of one client to the API over TCP.
const MOST_PER_CLIENT: u32 = 256;

/// What the daemon serves on, once it does.
#[derive(Debug)]
pub struct Bound {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The TCP address with its actual port.
    pub listen: Option<SocketAddr>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The public listener's address with its actual port.
    pub public: Option<SocketAddr>,
    /// What VMs run on, or why there can be none yet.
    pub node: Result<NodeInfo, orchestrator::Error>,
    /// Where the first admin's key is, if it was made just now.
    pub new_admin_key: Option<PathBuf>,
}

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon works on the data directory.
    #[error(
        "another daemon{} uses the data directory {}; end it, or choose another with --data-dir",
        holder.map_or(String::new(), |pid| format!(" (process {pid})")),
        path.display()
    )]
    DataDirTaken {
        /// The directory.
        path: PathBuf,
        /// The other daemon.
        holder: Option<u32>,
    },
    /// The Unix socket cannot be made.
    #[error("the socket {} cannot be made", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody listens on the Unix socket.
    #[error("another process listens on {}; choose another with --socket", .0.display())]
    SocketTaken(PathBuf),
    /// Somebody listens on the TCP address.
    #[error("{0} is taken by another process; choose another with --listen, or --listen none")]
    AddressTaken(SocketAddr),
    /// The TCP address cannot be used.
    #[error("{address}, the address of --listen, cannot be used")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The sandboxes cannot be taken up.
    #[error(transparent)]
    Orchestrator(#[from] orchestrator::Error),
    /// The first admin's key cannot be written.
    #[error("the admin's key cannot be written")]
    AdminKey(#[source] io::Error),
    /// A listener cannot be encrypted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for")]
    Signals(#[source] io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT; `ready` is called once requests are served. VMs go on
/// running, and the next daemon takes them up. A second signal ends at once.
pub async fn serve(
    config: Config,
    mut settings: Settings,
    ready: impl FnOnce(&Bound),
) -> Result<(), ServeError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    let mut socket = LocalSocket::bind(&config.socket, &data_dir)?;
    let tcp = config.listen.map(bind_tcp).transpose()?;
    let listen = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    limits::raise_open_files();

    let public = config.public.as_ref().map(|public| bind_tcp(public.listen)).transpose()?;
    let plain = config.public.as_ref().and_then(|public| public.http_listen);
    let plain = plain.map(bind_tcp).transpose()?;
    let certificates = Arc::new(Certificates::new(&config)?);
    let encrypted = certificates.api.is_some();

    // What is locked is what is worked on, whatever the settings say.
    settings.data_dir.clone_from(&config.data_dir);
    let orchestrator = Orchestrator::open(settings).await?;
    let new_admin_key = ensure_admin(&orchestrator, &config.data_dir).await?;
    let origin = listen.map(|address| Origin::of(address, encrypted));
    let mut with_public =
        WithPublic { certificates: Arc::clone(&certificates), origin, ..WithPublic::default() };
    let public = match public {
        Some(listener) => open_public(&config, listener, listen, &orchestrator, &mut with_public)?,
        None => None,
    };
    let app = App::with_public(orchestrator.clone(), config.json_body_max, with_public);
    let router = app::router(app);

    let (stop, stopping) = watch::channel(false);
    let mut listeners = JoinSet::new();
    if let Some(unix) = socket.listener.take() {
        listeners.spawn(connections::run(Listener::Unix(unix), router.clone(), stopping.clone()));
    }
    if let Some(tcp) = tcp {
        let per_client = Some(PerClient::new(MOST_PER_CLIENT, |from| from.is_loopback()));
        let tls = certificates.api.clone();
        let service = Service { tls, per_client, ..Service::from(router.clone()) };
        listeners.spawn(connections::run(Listener::Tcp(tcp), service, stopping.clone()));
    }
    take_care(&mut listeners, &certificates, &orchestrator, &stopping);
    let public_address = public.as_ref().map(|public| public.address);
    if let Some(public) = public {
        serve_public(&mut listeners, public, plain, &certificates, &stopping);
    }
    drop(router);
    let node = orchestrator.choose_engine().await;
    let bound = Bound {
        socket: config.socket,
        listen,
        encrypted,
        public: public_address,
        node,
        new_admin_key,
    };
    ready(&bound);
    notify::notify(notify::READY);

    signals.next().await;
    tracing::info!("ending; sandboxes go on running");
    notify::notify(notify::STOPPING);
    let _ = stop.send(true);
    tokio::select! {
        () = async { while listeners.join_next().await.is_some() {} } => {}
        () = signals.next() => listeners.shutdown().await,
    }
    orchestrator.close().await;
    drop((socket, data_dir));
    Ok(())
}

/// Looks after the certificates for as long as the daemon serves.
fn take_care(
    tasks: &mut JoinSet<()>,
    certificates: &Arc<Certificates>,
    orchestrator: &Orchestrator,
    stopping: &watch::Receiver<bool>,
) {
    tasks.spawn(Arc::clone(certificates).watch(stopping.clone()));
    if let Some(acme) = &certificates.acme {
        let orchestrator = orchestrator.clone();
        let published = move |alias: &str| orchestrator.by_alias(alias).is_some();
        tasks.spawn(Arc::clone(acme).run(published, stopping.clone()));
    }
}

/// Serves the public, and on the plain port, if there is one, where it is found.
fn serve_public(
    tasks: &mut JoinSet<()>,
    public: PublicListener,
    plain: Option<TcpListener>,
    certificates: &Certificates,
    stopping: &watch::Receiver<bool>,
) {
    tasks.spawn(Arc::clone(&public.host_ports).follow(stopping.clone()));
    if let Some(plain) = plain {
        let service = public.plain_service(certificates.acme.clone());
        tasks.spawn(connections::run(Listener::Tcp(plain), service, stopping.clone()));
    }
    let service = public.service(certificates.public.clone());
    tasks.spawn(connections::run(Listener::Tcp(public.listener), service, stopping.clone()));
}

/// The listener for the public, of which the API is told.
fn open_public(
    config: &Config,
    listener: TcpListener,
    api: Option<SocketAddr>,
    orchestrator: &Orchestrator,
    told: &mut WithPublic,
) -> Result<Option<PublicListener>, ServeError> {
    let Some(config) = &config.public else { return Ok(None) };
    // Whoever stood there would be sent keys while this daemon is down or listens elsewhere.
    let plain = config.http_listen.map_or(0, |plain| plain.port());
    let own_ports = [api.map_or(0, |api| api.port()), DEFAULT_LISTEN.port(), plain];
    let listener = PublicListener::new(config, listener, orchestrator, &told.pool, &own_ports)
        .map_err(|source| ServeError::Address { address: config.listen, source })?;
    told.site = Some(listener.site.clone());
    told.shell = Some(listener.shell());
    told.host_ports = Some(Arc::clone(&listener.host_ports));
    Ok(Some(listener))
}

/// Makes the first admin, if there is none, and writes its key where only the owner can read it.
async fn ensure_admin(
    orchestrator: &Orchestrator,
    data_dir: &Path,
) -> Result<Option<PathBuf>, ServeError> {
    let Some(key) = orchestrator.store().ensure_admin().await? else { return Ok(None) };
    let path = data_dir.join("admin.key");
    base::files::write_atomic(&path, format!("{key}\n").as_bytes(), 0o600)
        .map_err(ServeError::AdminKey)?;
    Ok(Some(path))
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
