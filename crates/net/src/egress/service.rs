//! The one handle that the orchestrator has.

use std::{fmt, future::Future, net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    directory::Directory,
    guard::Guard,
    log::Attempt,
    nflog::{self, Nflog},
    proxy::{Dial, Original, Proxy},
    suggest::suggest,
    supervise::supervise,
};
use crate::{
    address::{Place, Pool},
    dns::{self, Upstreams},
    policy::{Egress, Reach},
};

/// Says whose a source address is.
pub type Locate = Arc<dyn Fn(Ipv4Addr) -> Option<Place> + Send + Sync>;

/// Sockets in the namespace of the networks, where no source address can be forged.
#[derive(Debug)]
pub struct Sockets {
    /// Bound to port 53 of all addresses.
    pub dns_udp: UdpSocket,
    pub dns_tcp: TcpListener,
    /// Where the packet filter redirects connections to.
    pub proxy: TcpListener,
    /// Where the packet filter tells of packets, if it can.
    pub nflog: Option<Nflog>,
}

/// What the service needs from around it.
#[derive(Clone)]
pub struct Wiring {
    /// What no sandbox may reach besides what none ever may: as the packet filter has it.
    pub forbidden: Vec<Ipv4Net>,
    /// Whose a source address is: [`Pool::find`], wherever sources are what they say.
    pub locate: Locate,
    /// Where a redirected connection was going: [`super::original_destination`].
    pub original: Original,
    /// Connects from inside the namespace.
    pub dial: Dial,
    /// Who answers for names of the outside; asked from the namespace of the caller.
    pub upstreams: Upstreams,
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wiring").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

/// Name server, egress proxy and log of all networks. They end with it.
#[derive(Debug)]
pub struct Service {
    guard: Arc<Guard>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Service {
    /// Starts to serve, knowing nobody yet. To be called within a runtime.
    pub fn start(pool: Pool, sockets: Sockets, wiring: Wiring) -> Self {
        let Wiring { forbidden, locate, original, dial, upstreams } = wiring;
        let guard = Arc::new(Guard::new(Directory::new(pool, &forbidden), locate, upstreams));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let service = Self { guard: Arc::clone(&guard), stop, tasks };
        let names = Arc::new(dns::Responder::new(Arc::clone(&guard)));
        let socket = Arc::new(sockets.dns_udp);
        let responder = Arc::clone(&names);
        service.keep("names", move |stop, tasks| {
            dns::serve_udp(Arc::clone(&responder), Arc::clone(&socket), stop, tasks)
        });
        let listener = Arc::new(sockets.dns_tcp);
        let quota = dns::connections();
        service.keep("names over TCP", move |stop, tasks| {
            let quota = Arc::clone(&quota);
            dns::serve_tcp(Arc::clone(&names), Arc::clone(&listener), quota, stop, tasks)
        });
        let proxy = Arc::new(Proxy { guard: Arc::clone(&guard), original, dial });
        let listener = Arc::new(sockets.proxy);
        service.keep("proxy", move |stop, tasks| {
            Arc::clone(&proxy).run(Arc::clone(&listener), stop, tasks)
        });
        if let Some(nflog) = sockets.nflog.and_then(Nflog::watched) {
            service.keep("log of packets", move |stop, _| {
                nflog::run(Arc::clone(&nflog), Arc::clone(&guard), stop)
            });
        }
        service
    }

    fn keep<F: Future<Output = ()> + Send + 'static>(
        &self,
        what: &'static str,
        serve: impl Fn(CancellationToken, TaskTracker) -> F + Send + 'static,
    ) {
        let (stop, tasks) = (self.stop.clone(), self.tasks.clone());
        supervise(&self.tasks, self.stop.clone(), what, move || serve(stop.clone(), tasks.clone()));
    }

    /// A sandbox is not there to end its connections, and nobody knows for how long: of those
    /// through the proxy all but the latest `most` are ended.
    pub fn trim(&self, place: Place, most: usize) {
        self.guard.connections.trim(place, most);
    }

    /// Says who is at a place and what it may reach from now on. Connections through the proxy
    /// that may no longer be are cut.
    pub fn set(&self, place: Place, name: &str, reach: impl Into<Reach>) {
        self.guard.set(place, name, reach.into());
    }

    /// Nobody is at this place any more: its connections are cut and its log goes.
    pub fn forget(&self, place: Place) {
        self.guard.forget(place);
    }

    /// What a sandbox tried to reach, the latest last.
    pub fn attempts(&self, place: Place) -> Vec<Attempt> {
        self.guard.log.attempts(place)
    }

    /// The allow-list that would have let everything through that a sandbox tried.
    pub fn suggest(&self, place: Place) -> Egress {
        suggest(&self.attempts(place), self.guard.directory.forbidden())
    }

    /// Ends all connections and waits for everything to end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
