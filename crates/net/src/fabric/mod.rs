//! Users' networks in the kernel: one namespace for all, a bridge for each user, an interface for
//! each sandbox.
//!
//! What should be there is a value ([`plan`]), its rules are text made from it ([`rules`]), and
//! applying it again changes nothing. So a daemon that was killed at any point makes everything
//! good by saying what it knows once more, and [`Networks::drift`] compares.
//!
//! Nothing here outlives the last daemon and VM but what is in the host: one interface, one table
//! of rules, and two rules in the chain that Docker leaves for such, if there is one.
//!
//! Invariant: connecting a sandbox sets no rules. All that its address needs is set when its
//! user's network is made, and its policy when that changes.

mod conntrack;
mod error;
mod findings;
mod links;
mod listing;
mod namespace;
mod nft;
mod own;
mod plan;
mod ranges;
mod rules;
mod settings;
mod spare;
mod sysctl;
mod tap;
mod uplink;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use ipnet::Ipv4Net;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

pub use self::{
    error::NetError,
    findings::{Finding, Problem},
    namespace::connect_inside,
    ranges::usable,
    settings::{Caps, Known, LOG_PASSED, LOG_REFUSED, Policy, Settings, Uplink},
    spare::SpareLink,
    tap::Tap,
};
use self::{
    links::Links,
    namespace::{Inside, Namespace},
    plan::{Plan, UplinkRange},
    uplink::Host,
};
use crate::{
    address::{Place, UserNetwork},
    egress::{Forbidden, decide_early},
    policy::Egress,
};

/// All networks of one daemon.
#[derive(Debug)]
pub struct Networks {
    own: Namespace,
    sockets: Inside,
    links: Links,
    host: Host,
    /// Indices of the bridges, by network, for whoever connects a sandbox.
    bridges: Mutex<BTreeMap<u16, u32>>,
    /// Changes are made one after the other.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// Whether a change was begun of which it is not known how it ended. Then the rules are made
    /// as a whole the next time.
    uncertain: bool,
}

/// What the host has addresses in or routes to: where no user's network may be, see [`usable`].
///
/// # Errors
/// [`NetError`] if the kernel does not say.
pub async fn used_by_host() -> Result<Vec<Ipv4Net>, NetError> {
    Host::open(Namespace::current().map_err(NetError::namespace)?).await?.used(None).await
}

impl Networks {
    /// Makes everything that is known, in a new namespace or in `adopt`, the one that VMs of an
    /// earlier daemon are still in. The host's namespace is the calling thread's.
    ///
    /// # Errors
    /// [`NetError::Permission`] without root, [`NetError::NoNft`] without the tool.
    pub async fn open(
        settings: Settings,
        known: Known,
        adopt: Option<OwnedFd>,
    ) -> Result<Self, NetError> {
        let plan = Plan::new(settings.checked()?, known);
        for network in plan.networks.values() {
            inside_pool(&plan.settings, *network)?;
        }
        let host = Namespace::current().map_err(NetError::namespace)?;
        let own = match adopt {
            Some(fd) => Namespace::adopt(fd),
            None => Namespace::create().await.map_err(NetError::namespace)?,
        };
        let sockets = Inside::start(&own).await.map_err(NetError::namespace)?;
        let links = Links::open(&own).await?;
        let networks = Self {
            sockets,
            links,
            host: Host::open(host).await?,
            own,
            bridges: Mutex::default(),
            state: tokio::sync::Mutex::new(State { plan, uncertain: true }),
        };
        let mut state = networks.state.lock().await;
        if let Err(error) = networks.ensure(&mut state).await {
            // The kernel may be without what tells senders that they are refused.
            if !matches!(error, NetError::Rules(_)) {
                return Err(error);
            }
            state.plan.rejects = false;
            networks.ensure(&mut state).await?;
        }
        drop(state);
        Ok(networks)
    }

    /// Removes from the host what a daemon with this tag has left there, if it has.
    ///
    /// # Errors
    /// What the kernel or nft refused.
    pub async fn clear_host(tag: &str) -> Result<(), NetError> {
        let settings = Settings::named(tag).checked()?;
        let host = Host::open(Namespace::current().map_err(NetError::namespace)?).await?;
        match host.has_any(&settings).await {
            Ok(true) => host.close(&settings).await,
            // Without the tool nothing can have been made.
            Ok(false) | Err(NetError::NoNft) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The namespace, to be kept open by VMs so that a later daemon can adopt it.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// What the host uses besides what is ours: where no user's network may be, see [`usable`].
    ///
    /// # Errors
    /// [`NetError`] if the kernel does not say.
    pub async fn used_by_host(&self) -> Result<Vec<Ipv4Net>, NetError> {
        let ours = self.state.lock().await.plan.uplink;
        self.host.used(ours).await
    }

    /// Makes a user's network. That it is there already is no error.
    ///
    /// # Errors
    /// [`NetError::OutsidePool`] if it is of another pool; what the kernel or nft refused.
    pub async fn add_network(&self, network: UserNetwork) -> Result<(), NetError> {
        let mut state = self.state.lock().await;
        inside_pool(&state.plan.settings, network)?;
        if self.bridge(network).is_ok() && !state.uncertain {
            return Ok(());
        }
        let mut script = String::new();
        plan::add_elements(&mut script, &plan::network_elements(network));
        state.plan.networks.insert(network.index(), network);
        self.apply(&mut state, script).await?;
        self.ensure_bridge(network).await
    }

    /// Removes a user's network, which disconnects whoever is still in it, and the policies of
    /// all its places. That it is not there is no error.
    ///
    /// # Errors
    /// What the kernel or nft refused.
    pub async fn remove_network(&self, network: UserNetwork) -> Result<(), NetError> {
        let mut state = self.state.lock().await;
        self.remove_bridge(network).await?;
        let gone = state.plan.remove(network);
        self.apply(&mut state, plan::change(&gone, &plan::Items::default())).await
    }

    /// Makes the interface of a sandbox and connects it. It is gone when its descriptor is closed
    /// everywhere, as when the VM ends.
    ///
    /// # Errors
    /// [`NetError::NoNetwork`] if its user's network has not been added, [`NetError::Busy`] if a
    /// VM still has the interface.
    pub async fn attach(&self, place: Place) -> Result<Tap, NetError> {
        let bridge = self.bridge(place.network())?;
        let name = place.tap();
        let making = name.clone();
        let tap = self.sockets.run(move || Tap::make(making)).await;
        let tap = tap.map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => NetError::Busy(name),
            _ => NetError::Tap { name, source },
        })?;
        self.links.change(tap.name(), |link| link.controller(bridge).up()).await?;
        self.introduce(bridge, place).await?;
        Ok(tap)
    }

    /// Says who has the place's address, and waits until its bridge can send.
    async fn introduce(&self, bridge: u32, place: Place) -> Result<(), NetError> {
        self.links.neighbour(bridge, place.address(), place.mac()).await?;
        self.links.settle(bridge).await
    }

    /// Sets what a sandbox may do, from now on and for connections that it has, too.
    ///
    /// # Errors
    /// What nft refused.
    pub async fn set_policy(&self, place: Place, policy: Policy) -> Result<(), NetError> {
        self.set_policies(vec![(place, policy)]).await
    }

    /// As [`set_policy`](Self::set_policy) for several sandboxes at once.
    ///
    /// # Errors
    /// What nft refused; then none of it holds before the next change.
    pub async fn set_policies(&self, policies: Vec<(Place, Policy)>) -> Result<(), NetError> {
        let mut state = self.state.lock().await;
        let mut script = String::new();
        let (mut changed, mut narrowed) = (false, Vec::new());
        for (place, policy) in policies {
            let old = state.plan.policy(place);
            if old == policy {
                continue;
            }
            changed = true;
            if policy.egress != old.egress {
                narrowed.push((place, policy.egress.clone()));
            }
            let (old, new) = (plan::policy_items(place, &old), plan::policy_items(place, &policy));
            state.plan.set(place, policy);
            script.push_str(&plan::change(&old, &new));
        }
        if changed || state.uncertain {
            self.apply(&mut state, script).await?;
        }
        let (settings, uplink) = (state.plan.settings.clone(), state.plan.uplink);
        drop(state);
        for (place, egress) in narrowed {
            self.end(&settings, uplink, place, egress).await;
        }
        Ok(())
    }

    /// Has the kernel forget all connections of a place that nobody has any more, so that the next
    /// one to have it hears nothing of them and they count for nobody.
    pub async fn forget_connections(&self, place: Place) {
        let uplink = self.state.lock().await.plan.uplink;
        self.forget(uplink, place, |_| true).await;
    }

    /// Ends connections that a policy does not let through. Nothing more of them can be sent by
    /// then, but what comes back would still arrive.
    async fn end(
        &self,
        settings: &Settings,
        uplink: Option<UplinkRange>,
        place: Place,
        egress: Egress,
    ) {
        let pool = settings.pool;
        let forbidden = Forbidden::new(pool, &settings.forbidden);
        let ends = move |address| {
            let to = SocketAddrV4::new(address, 0);
            let passes = decide_early(&egress, &forbidden, to).is_some_and(|v| v.is_allowed());
            !passes && !pool.range().contains(&address)
        };
        self.forget(uplink, place, ends).await;
    }

    async fn forget(
        &self,
        uplink: Option<UplinkRange>,
        place: Place,
        ends: impl Fn(Ipv4Addr) -> bool + Send + 'static,
    ) {
        let host = uplink.map(|range| (self.host.namespace(), range.own().addr()));
        let forgotten = conntrack::forget(&self.own, host, place.address(), ends).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, address = %place.address(),
                "connections of a sandbox are not forgotten before they have been silent for long");
        }
    }

    /// Sets the default policy, as for a place that somebody else will get.
    ///
    /// # Errors
    /// What nft refused.
    pub async fn clear_policy(&self, place: Place) -> Result<(), NetError> {
        self.set_policy(place, Policy::default()).await
    }

    /// What differs between what should be there and what is. Nothing is changed.
    ///
    /// # Errors
    /// [`NetError`] if that cannot be found out.
    pub async fn drift(&self) -> Result<Vec<Finding>, NetError> {
        // Looked at without the lock: nobody waits for it who wants to connect a sandbox.
        let plan = self.state.lock().await.plan.clone();
        self.differences(&plan).await
    }

    /// Makes everything as it should be, and returns what was not. Connections live on.
    ///
    /// # Errors
    /// What the kernel or nft refused.
    pub async fn repair(&self) -> Result<Vec<Finding>, NetError> {
        let mut state = self.state.lock().await;
        let findings = self.differences(&state.plan).await?;
        if findings.iter().any(Finding::mendable) {
            state.uncertain = true;
            self.remove_foreign_tables(&findings).await?;
            self.ensure(&mut state).await?;
        }
        Ok(findings)
    }

    /// Removes everything from the host. A daemon that ends while VMs run does not do so.
    ///
    /// # Errors
    /// What the kernel or nft refused.
    pub async fn close(&self) -> Result<(), NetError> {
        let state = self.state.lock().await;
        match state.plan.settings.uplink {
            Uplink::None => Ok(()),
            Uplink::Host => self.host.close(&state.plan.settings).await,
        }
    }

    /// Does something that takes no time in the thread inside the namespace: a socket opened there
    /// stays there.
    ///
    /// # Errors
    /// That of the namespace, or that of the work.
    pub async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.sockets.run(work).await
    }

    /// A UDP socket inside the namespace.
    ///
    /// # Errors
    /// [`NetError::Socket`], as when the address is in use or not there yet.
    pub async fn bind_udp(&self, address: SocketAddrV4) -> Result<UdpSocket, NetError> {
        let open = move || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let bound = self.inside(open).await.and_then(UdpSocket::from_std);
        bound.map_err(|source| socket_error(address, source))
    }

    /// A listening TCP socket inside the namespace.
    ///
    /// # Errors
    /// As for [`bind_udp`](Self::bind_udp).
    pub async fn bind_tcp(&self, address: SocketAddrV4) -> Result<TcpListener, NetError> {
        let open = move || {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let bound = self.inside(open).await.and_then(TcpListener::from_std);
        bound.map_err(|source| socket_error(address, source))
    }

    /// A TCP connection that goes out from inside the namespace, to a sandbox or through the
    /// uplink. Private ranges are closed beyond the uplink.
    ///
    /// # Errors
    /// [`NetError::Socket`] if nothing accepts it.
    pub async fn connect(&self, address: SocketAddrV4) -> Result<TcpStream, NetError> {
        let connected = match self.inside(TcpSocket::new_v4).await {
            Ok(socket) => socket.connect(SocketAddr::V4(address)).await,
            Err(error) => Err(error),
        };
        connected.map_err(|source| socket_error(address, source))
    }

    fn bridge(&self, network: UserNetwork) -> Result<u32, NetError> {
        let bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        bridges.get(&network.index()).copied().ok_or(NetError::NoNetwork(network.index()))
    }
}

fn socket_error(address: SocketAddrV4, source: io::Error) -> NetError {
    NetError::Socket { address: *address.ip(), port: address.port(), source }
}

fn inside_pool(settings: &Settings, network: UserNetwork) -> Result<(), NetError> {
    let same = u32::from(network.index()) < settings.pool.users()
        && settings.pool.user(network.index()) == network;
    if same { Ok(()) } else { Err(NetError::OutsidePool(network.range())) }
}
