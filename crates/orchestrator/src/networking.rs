//! Users' networks as sandboxes use them.
//!
//! Everything is made when it is first needed: a daemon without sandboxes touches nothing of the
//! host's network. One that finds VMs running goes on with the namespace that they are in.
//!
//! That is what root can do. Where the daemon is not root each monitor makes a network for its sandbox;
//! see [`user`].

mod mode;
mod user;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::Arc,
};

use ipnet::Ipv4Net;
use net::{
    Upstreams,
    address::{Place, Pool, USER_PREFIX},
    egress::{Attempt, Forbidden, Nflog, Service, Sockets, Wiring, original_destination},
    fabric::{
        Finding, Known, Link, NetError, Networks, Policy, SpareLink, Tap, Uplink, usable,
        used_by_host,
    },
    policy::{Egress, Mode},
};
use proto::message::Interface;
use tokio::sync::OnceCell;
use vmm::{Nic, VmHandle};

pub use self::{
    mode::{Connection, NetworkMode},
    user::UserEgress,
};
use crate::{
    Error, Kind, Result,
    model::NetworkSpec,
    node::blocking,
    record::{Record, State},
    store::{Networks as Numbers, Store},
};

/// How the networks are that the daemon makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The range that users' networks are taken from.
    pub pool: Pool,
    /// Whether there is a way out.
    pub uplink: Uplink,
    /// What no sandbox may reach besides the private ranges.
    pub forbidden: Vec<Ipv4Net>,
    /// Who is asked for the addresses of names outside; whom the host asks if there are none.
    pub dns: Vec<SocketAddr>,
}

impl NetworkSettings {
    /// Where there is no way out, names would be one.
    fn upstreams(&self) -> Upstreams {
        match self.uplink {
            Uplink::Host if self.dns.is_empty() => Upstreams::ResolvConf(RESOLV_CONF.into()),
            Uplink::Host => Upstreams::Fixed(self.dns.clone()),
            Uplink::None => Upstreams::Fixed(Vec::new()),
        }
    }
}

/// Whom the host asks for the addresses of names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The number of some place in a network.
const FIRST_HOST: u16 = 2;

/// The port of the egress proxy inside the namespace of the networks.
const PROXY_PORT: u16 = 3129;
/// The name server's.
const DNS_PORT: u16 = 53;

/// See the module.
#[derive(Debug)]
pub(crate) struct Networking {
    /// None if the daemon makes no networks.
    settings: Option<NetworkSettings>,
    /// How sandboxes are connected.
    mode: NetworkMode,
    /// Whether interfaces can be made in the host. Otherwise all VMs have one that their monitor
    /// makes, connected or not.
    root: bool,
    tag: String,
    store: Store,
    open: OnceCell<Open>,
}

/// The parts that work while there are networks.
#[derive(Debug)]
struct Open {
    fabric: Arc<Networks>,
    service: Service,
}

impl Networking {
    /// `root` is whether interfaces can be made in the host.
    pub(crate) fn new(
        connection: Option<Connection>,
        root: bool,
        tag: &str,
        store: Store,
    ) -> Result<Self> {
        let (mode, settings) = mode::understand(connection, root)?;
        Ok(Self { settings, mode, root, tag: tag.to_owned(), store, open: OnceCell::new() })
    }

    /// How sandboxes are connected, for people.
    pub(crate) fn mode(&self) -> NetworkMode {
        self.mode
    }

    /// Makes of what a request says of a sandbox's network what it gets; see [`UserEgress::fit`].
    pub(crate) fn fit(&self, network: &mut NetworkSpec, said: bool) -> Result<()> {
        match self.mode {
            NetworkMode::User(egress) => egress.fit(network, said),
            _ => Ok(()),
        }
    }

    /// Whether what a sandbox may reach can be changed.
    ///
    /// # Errors
    /// [`Kind::NetworkUnsupported`].
    pub(crate) fn changeable(&self) -> Result<()> {
        match self.mode {
            NetworkMode::User(_) => Err(user::unchangeable()),
            _ => Ok(()),
        }
    }

    /// Goes on with what an earlier daemon left, before any VM is taken up.
    pub(crate) async fn take_up(&self) -> Result<()> {
        let Some(settings) = &self.settings else { return Ok(()) };
        let records = self.store.sandboxes().await?;
        let handles = records.iter().filter_map(|record| match record.state {
            State::Running { pid, start_time, .. } => Some(VmHandle { pid, start_time }),
            _ => None,
        });
        let handles: Vec<VmHandle> = handles.collect();
        let found = blocking(move || Ok(handles.iter().find_map(vmm::namespace_of))).await?;
        if let Some(namespace) = found {
            self.open(settings, Some(namespace)).await?;
        }
        Ok(())
    }

    /// The interface of a sandbox that is about to start.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it cannot be made.
    pub(crate) async fn connect(&self, record: &Record) -> Result<Nic> {
        if let NetworkMode::User(egress) = self.mode {
            return egress.nic(record);
        }
        let Some(settings) = &self.settings else { return self.loose().await };
        // One without a network needs nothing of where the others are.
        let place = self.place(record).filter(|_| !record.spec.network.isolated);
        let Some(place) = place else { return self.loose().await };
        let Open { fabric, service } = self.open(settings, None).await?;
        let connected = async {
            fabric.add_network(place.network()).await?;
            fabric.set_policy(place, record.spec.network.policy.clone()).await?;
            fabric.attach(place, Link::Network).await
        };
        let tap = connected.await.map_err(unavailable)?.into_fd();
        introduce(service, place, record);
        let namespace = fabric.namespace().try_clone_to_owned()?;
        Ok(Nic::Tap { tap, namespace: Some(namespace) })
    }

    /// An interface that leads nowhere, for a VM that is to look like the others.
    pub(crate) async fn loose(&self) -> Result<Nic> {
        if !self.root {
            return Ok(Nic::User { open: false });
        }
        let tap = blocking(|| Ok(Tap::loose()?)).await;
        let tap = tap.map_err(|error| {
            let message = "a network interface for a VM cannot be made";
            Error::new(Kind::NetworkUnavailable, message)
                .caused_by(error)
                .hint("the daemon needs CAP_NET_ADMIN, and /dev/net/tun has to be there")
        })?;
        Ok(Nic::Tap { tap: tap.into_fd(), namespace: None })
    }

    /// An interface for a sandbox that is not known yet.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it cannot be made.
    pub(crate) async fn spare(&self) -> Result<(Nic, Option<SpareLink>)> {
        if let NetworkMode::User(egress) = self.mode {
            return Ok((egress.spare(), None));
        }
        let Some(settings) = &self.settings else { return Ok((self.loose().await?, None)) };
        let fabric = &self.open(settings, None).await?.fabric;
        let (tap, link) = fabric.spare().await.map_err(unavailable)?;
        let namespace = fabric.namespace().try_clone_to_owned()?;
        Ok((Nic::Tap { tap, namespace: Some(namespace) }, Some(link)))
    }

    /// What some sandbox's interface could be told, to try it out.
    pub(crate) fn any_interface(&self) -> Option<Interface> {
        let place = self.settings.as_ref()?.pool.user(0).place(FIRST_HOST)?;
        Some(told(place))
    }

    /// Whether a spare interface does for a sandbox: one that is to be connected to nothing gets one
    /// that is nowhere near the others.
    pub(crate) fn takes_spare(&self, record: &Record) -> bool {
        if let NetworkMode::User(egress) = self.mode {
            return egress.takes_spare(record);
        }
        self.settings.is_none() || (self.place(record).is_some() && !record.spec.network.isolated)
    }

    /// Connects a spare interface for a sandbox that is about to start.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it cannot be done.
    pub(crate) async fn connect_spare(
        &self,
        record: &Record,
        link: Option<SpareLink>,
    ) -> Result<()> {
        let (Some(link), Some(settings)) = (link, &self.settings) else { return Ok(()) };
        let Some(place) = self.place(record) else { return Ok(()) };
        let Open { fabric, service } = self.open(settings, None).await?;
        let connected = async {
            fabric.add_network(place.network()).await?;
            fabric.set_policy(place, record.spec.network.policy.clone()).await?;
            fabric.place(link, place).await
        };
        connected.await.map_err(unavailable)?;
        introduce(service, place, record);
        Ok(())
    }

    /// What a sandbox's interface is told; absent if it has no network.
    pub(crate) fn interface(&self, record: &Record) -> Option<Interface> {
        if let NetworkMode::User(egress) = self.mode {
            return egress.interface(record);
        }
        self.place(record).filter(|_| !record.spec.network.isolated).map(told)
    }

    /// Applies what its owner has changed about a sandbox's name or traffic.
    pub(crate) async fn changed(&self, record: &Record) -> Result<()> {
        let (Some(open), Some(place)) = (self.open.get(), self.place(record)) else {
            // Nobody is connected; who will be gets its policy then.
            return Ok(());
        };
        introduce(&open.service, place, record);
        let policy = record.spec.network.policy.clone();
        open.fabric.set_policy(place, policy).await.map_err(unavailable)
    }

    /// What a sandbox tried to reach, the latest last, and a policy that would have let all of it
    /// through. Nothing if it was not connected since the daemon started.
    pub(crate) fn log(&self, record: &Record) -> (Vec<Attempt>, Egress) {
        match (self.open.get(), self.place(record)) {
            (Some(open), Some(place)) => {
                (open.service.attempts(place), open.service.suggest(place))
            }
            _ => (Vec::new(), Egress { mode: Mode::Allowlist, ..Egress::default() }),
        }
    }

    /// What nobody may reach unless an admin opens it.
    pub(crate) fn forbidden(&self) -> Forbidden {
        match &self.settings {
            Some(settings) => Forbidden::new(settings.pool, &settings.forbidden),
            None => Forbidden::new(Pool::default(), &[]),
        }
    }

    /// What is not as it should be; nothing if there are no networks yet.
    pub(crate) async fn drift(&self) -> Result<Option<Vec<Finding>>> {
        let Some(open) = self.open.get() else { return Ok(None) };
        open.fabric.drift().await.map(Some).map_err(unavailable)
    }

    /// Makes everything as it should be, and says what was not.
    pub(crate) async fn repair(&self) -> Result<Option<Vec<Finding>>> {
        let Some(open) = self.open.get() else { return Ok(None) };
        open.fabric.repair().await.map(Some).map_err(unavailable)
    }

    /// Nothing holds for a sandbox's place any more: the next one to have it begins anew.
    pub(crate) async fn left(&self, record: &Record) {
        let (Some(open), Some(place)) = (self.open.get(), self.place(record)) else { return };
        open.service.forget(place);
        if let Err(error) = open.fabric.clear_policy(place).await {
            tracing::warn!(sandbox = %record.id, error = base::chain(&error),
                "a policy stays behind until its place is used again");
        }
    }

    /// Removes what there is of networks in the host, for which no VM may be left.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.open.get()
            && let Err(error) = open.fabric.close().await
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

    /// The parts that work, started now if they are not yet, in the given namespace or a new one.
    async fn open(&self, settings: &NetworkSettings, found: Option<OwnedFd>) -> Result<&Open> {
        let open = || async {
            let records = self.store.sandboxes().await?;
            let (upstreams, forbidden) = (settings.upstreams(), settings.forbidden.clone());
            let settings = self.fabric_settings(settings.clone());
            let (pool, known) = (settings.pool, self.known(&records));
            let opened = Networks::open(settings, known, found).await.map_err(unavailable)?;
            let fabric = Arc::new(opened);
            let sockets = sockets(&fabric).await?;
            let wiring = wiring(pool, forbidden, upstreams, &fabric);
            let service = Service::start(pool, sockets, wiring);
            for record in &records {
                if let Some(place) = self.place(record) {
                    introduce(&service, place, record);
                }
            }
            Ok(Open { fabric, service })
        };
        self.open.get_or_try_init(open).await
    }

    /// Which networks there are, and what holds in them.
    fn known(&self, records: &[Record]) -> Known {
        let mut known = Known::default();
        for (record, place) in records.iter().filter_map(|r| Some((r, self.place(r)?))) {
            if !known.networks.contains(&place.network()) {
                known.networks.push(place.network());
            }
            let policy = &record.spec.network.policy;
            if *policy != Policy::default() {
                known.policies.push((place, policy.clone()));
            }
        }
        known
    }

    fn fabric_settings(&self, settings: NetworkSettings) -> net::fabric::Settings {
        let NetworkSettings { pool, uplink, forbidden, dns: _ } = settings;
        let tag = self.tag.clone();
        net::fabric::Settings { tag, pool, uplink, proxy_port: PROXY_PORT, forbidden }
    }
}

/// What the interface at a place is told.
fn told(place: Place) -> Interface {
    let gateway = place.network().gateway();
    Interface {
        mac: place.mac().0,
        address: place.address(),
        prefix: USER_PREFIX,
        gateway,
        name_server: gateway,
    }
}

/// Says who is at a place and what it may reach.
fn introduce(service: &Service, place: Place, record: &Record) {
    match record.spec.network.isolated {
        true => service.forget(place),
        false => {
            let egress = record.spec.network.policy.egress.clone();
            service.set(place, record.name.as_str(), egress);
        }
    }
}

/// What the name server and the proxy listen on, and what tells of packets.
async fn sockets(fabric: &Networks) -> Result<Sockets> {
    let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let listening = async {
        Ok::<_, NetError>((
            fabric.bind_udp(any(DNS_PORT)).await?,
            fabric.bind_tcp(any(DNS_PORT)).await?,
            fabric.bind_tcp(any(PROXY_PORT)).await?,
        ))
    };
    let (dns_udp, dns_tcp, proxy) = listening.await.map_err(unavailable)?;
    let nflog = fabric.inside(Nflog::open).await.inspect_err(|error| {
        tracing::warn!(%error, "what the packet filter refuses will not be in egress logs");
    });
    Ok(Sockets { dns_udp, dns_tcp, proxy, nflog: nflog.ok() })
}

fn wiring(
    pool: Pool,
    forbidden: Vec<Ipv4Net>,
    upstreams: Upstreams,
    fabric: &Arc<Networks>,
) -> Wiring {
    // The service must not keep the networks open that it serves.
    let fabric = Arc::downgrade(fabric);
    Wiring {
        forbidden,
        locate: Arc::new(move |address| pool.find(address)),
        original: Arc::new(original_destination),
        dial: Arc::new(move |address| {
            let fabric = fabric.upgrade();
            Box::pin(async move {
                let fabric = fabric.ok_or(io::ErrorKind::NotConnected)?;
                fabric.connect(address).await.map_err(io::Error::other)
            })
        }),
        upstreams,
    }
}

/// Which numbers users' networks can have here: not those whose addresses the host uses.
pub(crate) async fn numbers(connection: Option<&Connection>) -> Result<Numbers> {
    let settings = connection.and_then(Connection::networks);
    let pool = settings.map(|settings| settings.pool).unwrap_or_default();
    let used = match settings {
        Some(_) => used_by_host().await.map_err(unavailable)?,
        None => Vec::new(),
    };
    let usable = usable(pool, &used);
    let all = 0..=u16::try_from(pool.users() - 1).unwrap_or(u16::MAX);
    Ok(Numbers { count: pool.users(), taken: all.filter(|index| !usable(*index)).collect() })
}

fn unavailable(error: NetError) -> Error {
    let hint = match &error {
        NetError::NoNft => "install it: apt-get install nftables",
        _ => "see what is wrong: bhatti doctor",
    };
    let message = format!("the sandbox cannot be connected to its network: {error}");
    Error::new(Kind::NetworkUnavailable, message).hint(hint).caused_by(error)
}
