//! The listener for the public, from its configuration.

use std::{net::SocketAddr, sync::Arc};

use orchestrator::Orchestrator;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::{HostPorts, Public, Site};
use crate::{
    config::PublicConfig,
    connections::{PerClient, Service},
    proxy::Pool,
    share::Shell,
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
}

impl PublicListener {
    /// Where links to terminals lead.
    pub(crate) fn shell(&self) -> Arc<Shell> {
        Arc::clone(&self.public.shell)
    }

    pub(crate) fn new(
        config: &PublicConfig,
        listener: TcpListener,
        orchestrator: &Orchestrator,
        pool: &Pool,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let site = config.site(address);
        let how_often = (config.limits, config.trusted.clone());
        let public = Public::new(orchestrator.clone(), pool.clone(), site.clone(), how_often);
        let free = config.host_ports.clone();
        let host_ports = HostPorts::new(Arc::clone(&public), address.ip(), free);
        Ok(Self { listener, address, site, host_ports, public })
    }

    /// What connections get. Only encrypted ones or those that begin with it speak HTTP/2.
    pub(crate) fn service(&self, tls: Option<Arc<ServerConfig>>) -> Service {
        let public = Arc::clone(&self.public);
        let per_client = PerClient::new(MOST_PER_CLIENT, move |from| public.is_trusted(from));
        let router = Arc::clone(&self.public).router();
        Service { router, tls, http2: true, per_client: Some(per_client) }
    }
}
