//! Name server, egress proxy and packet log, in the namespace of the networks.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use net::{
    address::Pool,
    egress::{Nflog, Service, Sockets, Wiring, original_destination},
    fabric::{NetError, Networks},
};

use super::NetworkSettings;

/// The port of the egress proxy inside the namespace of the networks.
pub(super) const PROXY_PORT: u16 = 3129;
/// The name server's.
const DNS_PORT: u16 = 53;

/// Starts them, knowing nobody yet.
pub(super) async fn start(
    settings: &NetworkSettings,
    fabric: &Arc<Networks>,
) -> Result<Service, NetError> {
    let sockets = sockets(fabric).await?;
    Ok(Service::start(settings.pool, sockets, wiring(settings, settings.pool, fabric)))
}

/// What the name server and the proxy listen on, and what tells of packets.
async fn sockets(fabric: &Networks) -> Result<Sockets, NetError> {
    let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let nflog = fabric.inside(Nflog::open).await.inspect_err(|error| {
        tracing::warn!(%error, "what the packet filter refuses will not be in egress logs");
    });
    Ok(Sockets {
        dns_udp: fabric.bind_udp(any(DNS_PORT)).await?,
        dns_tcp: fabric.bind_tcp(any(DNS_PORT)).await?,
        proxy: fabric.bind_tcp(any(PROXY_PORT)).await?,
        nflog: nflog.ok(),
    })
}

fn wiring(settings: &NetworkSettings, pool: Pool, fabric: &Arc<Networks>) -> Wiring {
    // The service must not keep the networks open that it serves.
    let fabric = Arc::downgrade(fabric);
    Wiring {
        forbidden: settings.forbidden.clone(),
        locate: Arc::new(move |address| pool.find(address)),
        original: Arc::new(original_destination),
        dial: Arc::new(move |address| {
            let fabric = fabric.upgrade();
            Box::pin(async move {
                let fabric = fabric.ok_or(io::ErrorKind::NotConnected)?;
                fabric.connect(address).await.map_err(io::Error::other)
            })
        }),
        upstreams: settings.upstreams(),
    }
}
