//! The listener for the public, from its configuration.

use std::{net::SocketAddr, sync::Arc};

use orchestrator::Orchestrator;
use tokio::net::TcpListener;

use super::{HostPorts, Public, Site, redirect, tcp::Free};
use crate::{
    config::PublicConfig,
    connections::{PerClient, Service},
    proxy::Pool,
    share::Shell,
    tls::{Acme, Tls},
};

/// Most connections of one client.
const MOST_PER_CLIENT: u32 = 1024;

/// What is needed to serve the public.
#[derive(Debug)]
pub(crate) struct PublicListener {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) site: Site,
    pub(crate) host_ports: Arc<HostPorts>,
    public: Arc<Public>,
    per_client: PerClient,
}

impl PublicListener {
    /// Where links to terminals lead.
    pub(crate) fn shell(&self) -> Arc<Shell> {
        Arc::clone(&self.public.shell)
    }

    /// `own_ports` are those of the daemon's other listeners.
    pub(crate) fn new(
        config: &PublicConfig,
        listener: TcpListener,
        orchestrator: &Orchestrator,
        pool: &Pool,
        own_ports: &[u16],
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let site = config.site(address);
        let how_often = (config.limits, config.trusted.clone());
        let public = Public::new(orchestrator.clone(), pool.clone(), site.clone(), how_often);
        let reserved = [own_ports, &[address.port()]].concat();
        let free = Free { range: config.host_ports.clone(), reserved };
        let trusting = Arc::clone(&public);
        let per_client = PerClient::new(MOST_PER_CLIENT, move |from| trusting.is_trusted(from));
        let host_ports =
            HostPorts::new(Arc::clone(&public), address.ip(), free, per_client.clone());
        Ok(Self { listener, address, site, host_ports, public, per_client })
    }

    /// What connections get. Only encrypted ones or those that begin with it speak HTTP/2.
    pub(crate) fn service(&self, tls: Option<Tls>) -> Service {
        let per_client = self.per_client.clone();
        let router = Arc::clone(&self.public).router();
        Service { router, tls, http2: true, per_client: Some(per_client) }
    }

    /// What connections to the plain port beside it get.
    pub(crate) fn plain_service(&self, acme: Option<Arc<Acme>>) -> Service {
        let per_client = self.per_client.clone();
        let router = redirect::router(self.site.clone(), acme);
        Service { router, tls: None, http2: false, per_client: Some(per_client) }
    }
}
