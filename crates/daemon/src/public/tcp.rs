//! Ports of the host that lead to ports of sandboxes, as raw TCP.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use api::ErrorCode;
use base::ids::PublicationId;
use orchestrator::{
    Kind, Sandbox,
    publications::{Place, Publication, PublishRequest, Published, WantedPlace},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
};

use super::{Public, look, trouble::Trouble};
use crate::{
    connections::stopped,
    failure::Failure,
    listen::bind_tcp,
    proxy::{Keep, join},
    serve::ServeError,
};

/// Most connections of one port; further ones wait in its backlog.
const MOST_CONNECTIONS: usize = 512;

/// The listeners, which follow what the store says.
#[derive(Debug)]
pub(crate) struct HostPorts {
    public: Arc<Public>,
    address: IpAddr,
    /// Which ports users may take.
    free: RangeInclusive<u16>,
    /// Held by whoever makes listeners agree with the store.
    running: Mutex<HashMap<PublicationId, JoinHandle<()>>>,
}

impl HostPorts {
    pub(crate) fn new(
        public: Arc<Public>,
        address: IpAddr,
        free: RangeInclusive<u16>,
    ) -> Arc<Self> {
        Arc::new(Self { public, address, free, running: Mutex::default() })
    }

    /// Keeps the listeners in agreement with the store until `stop` says so.
    pub(crate) async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.public.orchestrator.store().publication_changes();
        loop {
            changes.mark_unchanged();
            self.agree(&mut *self.running.lock().await).await;
            tokio::select! {
                () = stopped(&mut stop) => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        for (_, task) in self.running.lock().await.drain() {
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

    /// Returns once nothing listens that is not published any more.
    pub(crate) async fn settle(&self) {
        self.agree(&mut *self.running.lock().await).await;
    }

    fn listen(&self, port: u16) -> Result<TcpListener, Failure> {
        if !self.free.contains(&port) {
            let (low, high) = (self.free.start(), self.free.end());
            let message =
                format!("ports of the host that may be published go from {low} to {high}");
            return Err(Failure::new(ErrorCode::InvalidRequest, message));
        }
        bind_tcp(SocketAddr::new(self.address, port)).map_err(|error| match error {
            ServeError::AddressTaken(_) => {
                let message = format!("port {port} of the host is used by another program");
                Failure::new(ErrorCode::HostPortTaken, message).hint("choose another with --tcp")
            }
            other => Failure::internal(base::chain(&other)),
        })
    }

    async fn agree(&self, running: &mut HashMap<PublicationId, JoinHandle<()>>) {
        let wanted = self.public.orchestrator.store().publications_on_host_ports();
        let gone = running.extract_if(|id, _| !wanted.iter().any(|one| one.id == *id));
        for (_, task) in gone.collect::<Vec<_>>() {
            task.abort();
            // The port is free only then.
            let _ = task.await;
        }
        for publication in wanted {
            let Place::HostPort(port) = publication.place else { continue };
            if running.contains_key(&publication.id) {
                continue;
            }
            match bind_tcp(SocketAddr::new(self.address, port)) {
                Ok(listener) => self.start(running, &publication, listener),
                Err(error) => {
                    tracing::warn!(port, "a published port is not served: {}", base::chain(&error));
                }
            }
        }
    }

    fn start(
        &self,
        running: &mut HashMap<PublicationId, JoinHandle<()>>,
        publication: &Arc<Publication>,
        listener: TcpListener,
    ) {
        let serving = accept(Arc::clone(&self.public), Arc::clone(publication), listener);
        running.insert(publication.id.clone(), tokio::spawn(serving));
    }
}

/// Serves a port until the task is ended, and its connections with it.
async fn accept(public: Arc<Public>, publication: Arc<Publication>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (public, publication) = (Arc::clone(&public), Arc::clone(&publication));
                connections.spawn(async move { pass(&public, &publication, stream, from).await });
            }
            Err(error) => {
                tracing::warn!("accepting connections fails: {error}");
                crate::connections::let_be().await;
            }
        }
    }
}

/// Joins a connection with a port of a sandbox. Whoever cannot be let in finds it closed.
async fn pass(public: &Public, publication: &Publication, stream: TcpStream, from: SocketAddr) {
    let Some(sandbox) = public.orchestrator.sandbox_of(publication) else { return };
    if public.admit(publication, from.ip().to_canonical()).is_err() || look(&sandbox).is_err() {
        return;
    }
    let _ = stream.set_nodelay(true);
    let entered = match public.doors.of(publication).enter(&sandbox).await {
        Ok(entered) => entered,
        Err(failure) => {
            // Noted in the log as it would be for a request.
            drop(Trouble::from_failure(failure, publication.port));
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
