//! Ports of the host that lead to ports of sandboxes, as raw TCP.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use api::ErrorCode;
use base::ids::PublicationId;
use orchestrator::{
    Kind, Sandbox,
    publications::{Place, Publication, PublishRequest, Published, WantedPlace},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{Public, look, trouble::Trouble};
use crate::{
    connections::{MAX_CONNECTIONS, PerClient, is_of_connection, let_be, stopped},
    failure::Failure,
    listen::bind_tcp,
    proxy::{Keep, join},
    serve::ServeError,
};

/// Most connections of one port; further ones wait in its backlog.
const MOST_CONNECTIONS: usize = 512;
/// How long until a port is tried again that could not be listened on: nothing tells of the moment
/// when another program lets go of it.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

/// The listeners, which follow what the store says.
#[derive(Debug)]
pub(crate) struct HostPorts {
    public: Arc<Public>,
    address: IpAddr,
    free: Free,
    room: Room,
    /// Held by whoever makes listeners agree with the store.
    running: Mutex<Running>,
}

/// Which ports users may take.
#[derive(Debug, Clone)]
pub(crate) struct Free {
    pub(crate) range: RangeInclusive<u16>,
    /// Nobody's, even in the range: what the daemon itself listens on, or clients look for it on.
    pub(crate) reserved: Vec<u16>,
}

/// How many connections there may be, on all ports together.
#[derive(Debug, Clone)]
struct Room {
    per_client: PerClient,
    all: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Running {
    tasks: HashMap<PublicationId, JoinHandle<()>>,
    /// What could not be listened on.
    unserved: HashSet<PublicationId>,
}

impl HostPorts {
    /// `per_client` counts the connections of the public listener, too.
    pub(crate) fn new(
        public: Arc<Public>,
        address: IpAddr,
        free: Free,
        per_client: PerClient,
    ) -> Arc<Self> {
        let room = Room { per_client, all: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
        Arc::new(Self { public, address, free, room, running: Mutex::default() })
    }

    /// Keeps the listeners in agreement with the store until `stop` says so.
    pub(crate) async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.public.orchestrator.store().publication_changes();
        loop {
            changes.mark_unchanged();
            let mut running = self.running.lock().await;
            self.agree(&mut running).await;
            let complete = running.unserved.is_empty();
            drop(running);
            let changed = async {
                match complete {
                    true => changes.changed().await,
                    false => timeout(AGAIN, changes.changed()).await.unwrap_or(Ok(())),
                }
            };
            tokio::select! {
                () = stopped(&mut stop) => break,
                changed = changed => if changed.is_err() { break },
            }
        }
        for (_, task) in self.running.lock().await.tasks.drain() {
            task.abort();
        }
    }

    /// Publishes a port of a sandbox on a port of the host that can be listened on.
    pub(crate) async fn publish(
        &self,
        sandbox: &Sandbox,
        wanted: PublishRequest,
    ) -> Result<Published, Failure> {
        let WantedPlace::HostPort(port) = wanted.place else {
            return Err(Failure::internal("not a port of the host"));
        };
        let mut running = self.running.lock().await;
        self.agree(&mut running).await;
        let store = self.public.orchestrator.store();
        let on_host = Place::HostPort(port);
        let known = store.publications_on_host_ports().iter().any(|one| one.place == on_host);
        let listener = if known { None } else { Some(self.listen(port)?) };
        let published = self.public.orchestrator.publish(sandbox, wanted).await?;
        if let (Some(listener), false) = (listener, published.existing) {
            self.start(&mut running, &published.publication, listener);
        }
        Ok(published)
    }

    /// Returns once nothing is served that is not published any more.
    pub(crate) async fn settle(&self) {
        self.agree(&mut *self.running.lock().await).await;
    }

    fn listen(&self, port: u16) -> Result<TcpListener, Failure> {
        let Free { range, reserved } = &self.free;
        if reserved.contains(&port) {
            let message = format!("port {port} of the host is where the daemon itself is found");
            return Err(
                Failure::new(ErrorCode::HostPortTaken, message).hint("choose another with --tcp")
            );
        }
        if !range.contains(&port) {
            let (low, high) = (range.start(), range.end());
            let message =
                format!("ports of the host that may be published go from {low} to {high}");
            return Err(Failure::new(ErrorCode::InvalidRequest, message));
        }
        self.bind(port).map_err(|error| match error {
            ServeError::AddressTaken(_) => {
                let message = format!("port {port} of the host is used by another program");
                Failure::new(ErrorCode::HostPortTaken, message).hint("choose another with --tcp")
            }
            other => Failure::internal(base::chain(&other)),
        })
    }

    fn bind(&self, port: u16) -> Result<TcpListener, ServeError> {
        let address = SocketAddr::new(self.address, port);
        // It may have been published when the daemon listened elsewhere.
        match self.free.reserved.contains(&port) {
            true => Err(ServeError::AddressTaken(address)),
            false => bind_tcp(address),
        }
    }

    async fn agree(&self, running: &mut Running) {
        let store = self.public.orchestrator.store();
        self.public.doors.close_withdrawn(store);
        let wanted = store.publications_on_host_ports();
        let is_wanted = |id: &PublicationId| wanted.iter().any(|one| one.id == *id);
        running.unserved.retain(is_wanted);
        let gone = running.tasks.extract_if(|id, _| !is_wanted(id));
        for (_, task) in gone.collect::<Vec<_>>() {
            task.abort();
            // The port is free only then.
            let _ = task.await;
        }
        for publication in &wanted {
            let Place::HostPort(port) = publication.place else { continue };
            if running.tasks.contains_key(&publication.id) {
                continue;
            }
            match self.bind(port) {
                Ok(listener) => self.start(running, publication, listener),
                Err(error) if running.unserved.insert(publication.id.clone()) => {
                    let error = base::chain(&error);
                    tracing::warn!(port, "a published port is not served yet: {error}");
                }
                Err(_) => {}
            }
        }
    }

    fn start(&self, running: &mut Running, publication: &Arc<Publication>, listener: TcpListener) {
        let (public, publication) = (Arc::clone(&self.public), Arc::clone(publication));
        let id = publication.id.clone();
        let serving = tokio::spawn(accept(public, publication, self.room.clone(), listener));
        running.unserved.remove(&id);
        running.tasks.insert(id, serving);
    }
}

/// Serves a port until the task is ended, and its connections with it.
async fn accept(
    public: Arc<Public>,
    publication: Arc<Publication>,
    room: Room,
    listener: TcpListener,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                // Closed at once if there is none: in the backlog it would keep out others.
                let Ok(turn) = Arc::clone(&room.all).try_acquire_owned() else { continue };
                let Some(counted) = room.per_client.take(from.ip()) else { continue };
                let (public, publication) = (Arc::clone(&public), Arc::clone(&publication));
                connections.spawn(async move {
                    pass(&public, &publication, stream, from).await;
                    drop((turn, counted));
                });
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::warn!("accepting connections fails: {error}");
                let_be().await;
            }
        }
    }
}

/// Joins a connection with a port of a sandbox. Whoever cannot be let in finds it closed.
async fn pass(public: &Public, publication: &Publication, stream: TcpStream, from: SocketAddr) {
    let Some(sandbox) = public.orchestrator.sandbox_of(publication) else { return };
    let client = from.ip().to_canonical();
    let admitted = public.admit(publication, client).and_then(|()| public.count(publication));
    if admitted.and_then(|()| look(&sandbox)).is_err() {
        return;
    }
    let _ = stream.set_nodelay(true);
    let entered = match public.doors.of(publication).enter(&sandbox, client).await {
        Ok(entered) => entered,
        Err(failure) => {
            // Noted in the log as it would be for a request.
            drop(Trouble::from_failure(failure));
            return;
        }
    };
    match entered.ready.connect(publication.port).await {
        Ok(mut tunnel) => {
            let _keep = Keep::new(tunnel.take_hold(), entered.place);
            join(stream, tunnel).await;
        }
        Err(error) if error.kind == Kind::PortClosed => {}
        Err(error) => tracing::debug!("no connection to a sandbox: {}", base::chain(&error)),
    }
}
