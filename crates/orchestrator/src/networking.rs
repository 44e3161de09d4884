//! Users' networks as sandboxes use them.
//!
//! Everything is made when it is first needed: a daemon without sandboxes touches nothing of the
//! host's network. One that finds VMs running goes on with the namespace that they are in.

use std::sync::Arc;

use ipnet::Ipv4Net;
use net::{
    address::{Place, Pool, USER_PREFIX},
    fabric::{Known, Link, NetError, Networks, Policy, Tap, Uplink, usable, used_by_host},
};
use proto::message::Interface;
use tokio::sync::OnceCell;
use vmm::{Nic, VmHandle};

use crate::{
    Error, Kind, Result,
    node::blocking,
    record::{Record, State},
    store::{Networks as Numbers, Store},
};

/// How sandboxes are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The range that users' networks are taken from.
    pub pool: Pool,
    /// Whether there is a way out.
    pub uplink: Uplink,
    /// What no sandbox may reach besides the private ranges.
    pub forbidden: Vec<Ipv4Net>,
}

/// The port of the egress proxy inside the namespace of the networks.
const PROXY_PORT: u16 = 3129;

/// See the module.
#[derive(Debug)]
pub(crate) struct Networking {
    /// None if sandboxes are not connected at all.
    settings: Option<NetworkSettings>,
    tag: String,
    fabric: OnceCell<Arc<Networks>>,
}

impl Networking {
    pub(crate) fn new(settings: Option<NetworkSettings>, tag: &str) -> Self {
        Self { settings, tag: tag.to_owned(), fabric: OnceCell::new() }
    }

    /// Goes on with what an earlier daemon left, before any VM is taken up.
    pub(crate) async fn take_up(&self, store: &Store) -> Result<()> {
        let records = store.sandboxes().await?;
        let handles = records.iter().filter_map(|record| match record.state {
            State::Running { pid, start_time, .. } => Some(VmHandle { pid, start_time }),
            _ => None,
        });
        let handles: Vec<VmHandle> = handles.collect();
        let found = blocking(move || Ok(handles.iter().find_map(vmm::namespace_of))).await?;
        let Some(namespace) = found else { return Ok(()) };
        let Some(settings) = self.settings.clone() else { return Ok(()) };
        let mut known = Known::default();
        for place in records.iter().filter_map(|record| self.place(record)) {
            if !known.networks.contains(&place.network()) {
                known.networks.push(place.network());
            }
        }
        known.policies = records
            .iter()
            .filter_map(|record| Some((self.place(record)?, record.spec.network.policy.clone())))
            .filter(|(_, policy)| *policy != Policy::default())
            .collect();
        let opened = Networks::open(self.fabric_settings(settings), known, Some(namespace)).await;
        let _ = self.fabric.set(Arc::new(opened.map_err(unavailable)?));
        Ok(())
    }

    /// The interface of a sandbox that is about to start.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it cannot be made.
    pub(crate) async fn connect(&self, record: &Record) -> Result<Nic> {
        let Some(settings) = &self.settings else { return loose().await };
        let Some(place) = self.place(record) else { return loose().await };
        let fabric = self.fabric(settings).await?;
        let connected = async {
            fabric.add_network(place.network()).await?;
            fabric.set_policy(place, record.spec.network.policy.clone()).await?;
            let link = if record.spec.network.isolated { Link::Isolated } else { Link::Network };
            fabric.attach(place, link).await
        };
        let tap = connected.await.map_err(unavailable)?.into_fd();
        let namespace = fabric.namespace().try_clone_to_owned()?;
        Ok(Nic { tap, namespace: Some(namespace) })
    }

    /// What a sandbox's interface is told; absent if it has no network.
    pub(crate) fn interface(&self, record: &Record) -> Option<Interface> {
        let place = self.place(record).filter(|_| !record.spec.network.isolated)?;
        let gateway = place.network().gateway();
        Some(Interface {
            mac: place.mac().0,
            address: place.address(),
            prefix: USER_PREFIX,
            gateway,
            name_server: gateway,
        })
    }

    /// Applies what its owner has changed about a sandbox's traffic.
    pub(crate) async fn changed(&self, record: &Record) -> Result<()> {
        let (Some(fabric), Some(place)) = (self.fabric.get(), self.place(record)) else {
            // Nobody is connected; who will be gets its policy then.
            return Ok(());
        };
        let policy = record.spec.network.policy.clone();
        fabric.set_policy(place, policy).await.map_err(unavailable)
    }

    /// Nothing holds for a sandbox's place any more: the next one to have it begins anew.
    pub(crate) async fn left(&self, record: &Record) {
        if let (Some(fabric), Some(place)) = (self.fabric.get(), self.place(record))
            && let Err(error) = fabric.clear_policy(place).await
        {
            tracing::warn!(sandbox = %record.id, error = base::chain(&error),
                "a policy stays behind until its place is used again");
        }
    }

    /// Removes what there is of networks in the host, for which no VM may be left.
    pub(crate) async fn close(&self) {
        if let Some(fabric) = self.fabric.get()
            && let Err(error) = fabric.close().await
        {
            tracing::warn!(error = base::chain(&error), "a part of the network stays behind");
        }
    }

    fn place(&self, record: &Record) -> Option<Place> {
        let pool = self.settings.as_ref()?.pool;
        let address = record.address;
        (u32::from(address.network) < pool.users())
            .then(|| pool.user(address.network))?
            .place(address.host)
    }

    async fn fabric(&self, settings: &NetworkSettings) -> Result<&Arc<Networks>> {
        let open = || async {
            let settings = self.fabric_settings(settings.clone());
            let opened = Networks::open(settings, Known::default(), None).await;
            opened.map(Arc::new).map_err(unavailable)
        };
        self.fabric.get_or_try_init(open).await
    }

    fn fabric_settings(&self, settings: NetworkSettings) -> net::fabric::Settings {
        let NetworkSettings { pool, uplink, forbidden } = settings;
        let tag = self.tag.clone();
        net::fabric::Settings { tag, pool, uplink, proxy_port: PROXY_PORT, forbidden }
    }
}

/// Which numbers users' networks can have here: not those whose addresses the host uses.
pub(crate) async fn numbers(settings: Option<&NetworkSettings>) -> Result<Numbers> {
    let pool = settings.map(|settings| settings.pool).unwrap_or_default();
    let used = match settings {
        Some(_) => used_by_host().await.map_err(unavailable)?,
        None => Vec::new(),
    };
    let usable = usable(pool, &used);
    let all = 0..=u16::try_from(pool.users() - 1).unwrap_or(u16::MAX);
    Ok(Numbers { count: pool.users(), taken: all.filter(|index| !usable(*index)).collect() })
}

/// An interface that leads nowhere, for a VM that is to look like the others.
pub(crate) async fn loose() -> Result<Nic> {
    let tap = blocking(|| Ok(Tap::loose()?)).await;
    let tap = tap.map_err(|error| {
        let message = "a network interface for a VM cannot be made";
        Error::new(Kind::NetworkUnavailable, message)
            .caused_by(error)
            .hint("the daemon has to run as root, and /dev/net/tun has to be there")
    })?;
    Ok(Nic { tap: tap.into_fd(), namespace: None })
}

fn unavailable(error: NetError) -> Error {
    let hint = match &error {
        NetError::NoNft => "install it: apt-get install nftables",
        _ => "see what is wrong: bhatti doctor",
    };
    let message = format!("the sandbox cannot be connected to its network: {error}");
    Error::new(Kind::NetworkUnavailable, message).hint(hint).caused_by(error)
}
