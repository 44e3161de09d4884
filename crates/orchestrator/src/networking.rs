//! Users' networks as sandboxes use them.
//!
//! Everything is made when it is first needed: a daemon without sandboxes touches nothing of the
//! host's network. One that finds VMs running goes on with the namespace that they are in.
//!
//! That is what root can do. Where the daemon is not root each monitor makes a network for its sandbox;
//! see [`user`].

mod log;
mod mode;
mod open;
mod service;
mod settings;
mod spare;
mod taking_up;
mod user;

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use base::ids::UserId;
use net::{
    address::{Place, USER_PREFIX},
    fabric::{Finding, Known, NetError, Networks, Policy, Tap},
};
use proto::message::Interface;
use tokio::sync::{Mutex, OnceCell};
use vmm::Nic;

use self::open::{Open, Standing};
pub use self::{
    log::EgressLog,
    mode::{Connection, NetworkMode},
    settings::NetworkSettings,
    user::UserEgress,
};
use crate::{
    Error, Kind, Result,
    model::{NetworkSpec, User},
    node::blocking,
    record::{Record, State},
    store::Store,
};

/// Most connections through the proxy that wait for a sandbox that is on disk. Each costs the daemon
/// two descriptors.
const KEPT_ASLEEP: usize = 64;

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
    /// The namespace that VMs of an earlier daemon are in.
    found: OnceLock<OwnedFd>,
    /// Held from reading who is there until it is known, so that nobody leaves in between.
    opening: Mutex<()>,
    open: OnceCell<Open>,
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
        let (tag, found) = (tag.to_owned(), OnceLock::new());
        let (opening, open) = (Mutex::default(), OnceCell::new());
        Ok(Self { settings, mode, root, tag, store, found, opening, open })
    }

    /// How sandboxes are connected, for people.
    pub(crate) fn mode(&self) -> NetworkMode {
        self.mode
    }

    /// Makes of what a request says of a sandbox's network what it gets; see [`UserEgress::fit`].
    pub(crate) fn fit(&self, network: &mut NetworkSpec, owner: &User) -> Result<()> {
        match self.mode {
            NetworkMode::User(egress) => egress.fit(network, owner),
            _ => Ok(()),
        }
    }

    /// Whether what sandboxes may reach can be changed.
    ///
    /// # Errors
    /// [`Kind::NetworkUnsupported`].
    pub(crate) fn changeable(&self) -> Result<()> {
        match self.mode {
            NetworkMode::User(_) => Err(user::unchangeable()),
            _ => Ok(()),
        }
    }

    /// The interface of a sandbox that is about to start.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it cannot be made.
    pub(crate) async fn connect(&self, record: &Record) -> Result<Nic> {
        if let NetworkMode::User(egress) = self.mode {
            return egress.nic(record, &self.policy(record));
        }
        let Some(settings) = &self.settings else { return self.loose().await };
        // One without a network needs nothing of where the others are.
        if record.spec.network.isolated {
            return self.loose().await;
        }
        let Some(place) = self.place(record) else { return Err(outside(record)) };
        let open = self.open(settings, None).await?;
        let connected = async {
            open.fabric.add_network(place.network()).await?;
            open.stands(place, Standing::of(record)).await?;
            open.fabric.attach(place).await
        };
        let tap = connected.await.map_err(unavailable)?.into_fd();
        let namespace = open.fabric.namespace().try_clone_to_owned()?;
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

    /// What a sandbox's interface is told; absent if it has no network.
    pub(crate) fn interface(&self, record: &Record) -> Option<Interface> {
        if let NetworkMode::User(egress) = self.mode {
            return egress.interface(record, &self.policy(record));
        }
        self.place(record).filter(|_| !record.spec.network.isolated).map(told)
    }

    /// What holds for a sandbox now.
    fn policy(&self, record: &Record) -> Policy {
        Standing::of(record).policy(&self.store)
    }

    /// Applies what its owner has changed about a sandbox's name or traffic.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it does not hold.
    pub(crate) async fn changed(&self, record: &Record) -> Result<()> {
        let runs = matches!(record.state, State::Running { .. });
        if record.spec.network.isolated || (self.settings.is_none() && !runs) {
            return Ok(());
        }
        let Some(open) = self.opened().await? else { return Ok(()) };
        let Some(place) = self.place(record) else { return Ok(()) };
        open.stands(place, Standing::of(record)).await.map_err(unavailable)
    }

    /// Applies what an admin has changed about what a user's sandboxes may.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it does not hold.
    pub(crate) async fn user_changed(&self, owner: &UserId) -> Result<()> {
        let Some(open) = self.opened().await? else { return Ok(()) };
        open.user_changed(owner).await.map_err(unavailable)
    }

    /// A user is gone who had the network of this number.
    pub(crate) async fn user_left(&self, network: u16) {
        let pool = self.settings.as_ref().map(|settings| settings.pool);
        let pool = pool.filter(|pool| u32::from(network) < pool.users());
        let _opening = self.opening.lock().await;
        if let (Some(open), Some(pool)) = (self.open.get(), pool)
            && let Err(error) = open.user_left(pool.user(network)).await
        {
            tracing::warn!(
                network,
                error = base::chain(&error),
                "the network of a user who is gone stays behind"
            );
        }
    }

    /// The networks, if anybody may be in them; opened now if that failed before.
    async fn opened(&self) -> Result<Option<&Open>> {
        if let Some(settings) = &self.settings {
            if self.found.get().is_some() {
                return self.open(settings, None).await.map(Some);
            }
            // Nobody is connected, or is about to be by what holds by then.
            let _opening = self.opening.lock().await;
            return Ok(self.open.get());
        }
        if self.found.get().is_none() {
            return Ok(None);
        }
        let message = "networks are off, and sandboxes that ran before still have theirs";
        Err(Error::new(Kind::NetworkUnavailable, message)
            .hint("stop and start those that should have none"))
    }

    /// What is not as it should be; nothing if there are no networks yet.
    pub(crate) async fn drift(&self) -> Result<Option<Vec<Finding>>> {
        let Some(open) = self.open.get() else { return Ok(None) };
        open.fabric.drift().await.map(Some).map_err(unknown)
    }

    /// Makes everything as it should be, and says what was not.
    pub(crate) async fn repair(&self) -> Result<Option<Vec<Finding>>> {
        let Some(open) = self.open.get() else { return Ok(None) };
        open.fabric.repair().await.map(Some).map_err(unknown)
    }

    /// A sandbox's guest does not run, and connections that wait for it do so for nothing if it
    /// never will, or for who knows how long.
    pub(crate) fn rests(&self, record: &Record, for_good: bool) {
        if let (Some(open), Some(place)) = (self.open.get(), self.place(record)) {
            open.service.trim(place, if for_good { 0 } else { KEPT_ASLEEP });
        }
    }

    /// Nothing holds for a sandbox's place any more: the next one to have it begins anew.
    pub(crate) async fn left(&self, record: &Record) {
        let _opening = self.opening.lock().await;
        let (Some(open), Some(place)) = (self.open.get(), self.place(record)) else { return };
        if let Err(error) = open.left(place).await {
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

    /// The parts that work, started now if they are not yet, in the namespace that was found or a
    /// new one. `records` are all sandboxes, if somebody has just read them.
    async fn open(&self, settings: &NetworkSettings, records: Option<&[Record]>) -> Result<&Open> {
        let open = || async {
            let _opening = self.opening.lock().await;
            let standing = match records {
                Some(records) => self.standing(records),
                None => self.standing(&self.store.sandboxes().await?),
            };
            let found = self.found.get().map(OwnedFd::try_clone).transpose()?;
            let opening = async {
                let known = known(&self.store, &standing);
                let fabric = Networks::open(self.fabric_settings(settings), known, found).await?;
                let fabric = Arc::new(fabric);
                let service = service::start(settings, &fabric).await?;
                Ok((fabric, service))
            };
            let (fabric, service) = opening.await.map_err(unavailable)?;
            Ok(Open::new(fabric, service, self.store.clone(), standing))
        };
        self.open.get_or_try_init(open).await
    }

    /// Who is where. Who is being removed is not there any more.
    fn standing(&self, records: &[Record]) -> HashMap<Place, Standing> {
        let there = records.iter().filter(|record| !matches!(record.state, State::Destroying));
        there.filter_map(|record| Some((self.place(record)?, Standing::of(record)))).collect()
    }

    fn fabric_settings(&self, settings: &NetworkSettings) -> net::fabric::Settings {
        net::fabric::Settings {
            tag: self.tag.clone(),
            pool: settings.pool,
            uplink: settings.uplink,
            proxy_port: service::PROXY_PORT,
            forbidden: settings.forbidden.clone(),
            tracked: None,
        }
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

/// Which networks there are, and what holds in them.
fn known(store: &Store, standing: &HashMap<Place, Standing>) -> Known {
    let mut known = Known::default();
    for (place, standing) in standing {
        if !known.networks.contains(&place.network()) {
            known.networks.push(place.network());
        }
        let policy = standing.policy(store);
        if policy != Policy::default() {
            known.policies.push((*place, policy));
        }
    }
    known
}

fn outside(record: &Record) -> Error {
    let message = format!("the network of {} is outside of network.pool", record.name);
    Error::new(Kind::NetworkUnavailable, message)
        .hint("set network.pool in the configuration to what it was when the sandbox was made")
}

/// Networks could not be looked at or mended.
fn unknown(error: NetError) -> Error {
    let message = format!("networks cannot be looked after: {error}");
    Error::new(Kind::NetworkUnavailable, message)
        .hint("the daemon's log may say more; try again, or restart the daemon")
        .caused_by(error)
}

fn unavailable(error: NetError) -> Error {
    let hint = match &error {
        NetError::NoNft => "install it: apt-get install nftables",
        _ => "see what is wrong: bhatti doctor",
    };
    let message = format!("the sandbox cannot be connected to its network: {error}");
    Error::new(Kind::NetworkUnavailable, message).hint(hint).caused_by(error)
}
