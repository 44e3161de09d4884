//! The transparent proxy: connections that the packet filter redirected to us are let through or
//! ended, by where they go and by what they say.
//!
//! ```text
//! accepted ── source ──► sandbox, its policy ── forbidden, or all is said by the address ──► end
//!    │                                                                          or pass on
//!    └─ first bytes ─► TLS: server's name ─┐
//!                      HTTP: host ─────────┼─► decide ─► connect ─► pass on, HTTP by request
//!                      nothing for a while ┘        └──► end: 403, a TLS alert, or a reset
//! ```
//!
//! Invariant: nothing that a client says reaches a server before it was decided on; from then on
//! every byte is passed on as it is, and a connection ends when its sandbox's policy forbids it.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    decide::{Reason, Said, Verdict, decide, decide_early, must_name},
    guard::Guard,
    hello::{Sniffer, Start},
    log::{Protocol, Target},
    page,
    relay::{self, HEAD_TIME},
    request::Head,
};
use crate::{
    address::Place,
    policy::{Egress, Reach},
};

/// How long a client may be silent before it is taken to wait for the server.
const GRACE: Duration = Duration::from_millis(300);
/// How long connecting to the destination may take.
const DIAL_TIME: Duration = Duration::from_secs(30);

/// How long asking where names lead may take, and how many are asked for at most.
const RESOLVE_TIME: Duration = Duration::from_secs(5);
const RESOLVE_MAX: usize = 32;

/// Connects to a destination, from inside the namespace.
pub type Dial = Arc<
    dyn Fn(SocketAddrV4) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>
        + Send
        + Sync,
>;

/// Where a redirected connection was going.
pub type Original = Arc<dyn Fn(&TcpStream) -> io::Result<SocketAddrV4> + Send + Sync>;

/// Asks the kernel's connection tracking where a connection was going before it was redirected.
///
/// # Errors
/// It was not redirected.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddrV4> {
    Ok(sockopt::ip_original_dst(stream)?)
}

/// The proxy's parts.
pub(crate) struct Proxy {
    pub(crate) guard: Arc<Guard>,
    pub(crate) original: Original,
    pub(crate) dial: Dial,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

impl Proxy {
    /// Accepts until `stop`.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) {
        while let Some((client, from)) = super::accept(&listener, &stop).await {
            let (proxy, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = proxy.connection(client, from) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    async fn connection(&self, client: TcpStream, from: SocketAddr) {
        let IpAddr::V4(source) = from.ip() else { return };
        let Some(place) = self.guard.locate(source) else { return };
        let Some(policy) = self.guard.directory.policy(place) else { return };
        let Ok(destination) = (self.original)(&client) else { return };
        let Some(turn) = self.guard.connections.take(place) else {
            let verdict = Verdict::Denied(Reason::Limit);
            self.guard.log.record(place, target(destination, None, &verdict));
            return reset(&client);
        };
        let connection = Connection {
            proxy: self,
            place,
            destination,
            policy: policy.clone(),
            standing: Mutex::new(None),
        };
        tokio::select! {
            () = connection.serve(client) => {}
            () = connection.revoked(policy) => {}
            () = turn.ended() => {}
        }
    }
}

/// One connection of a sandbox.
struct Connection<'a> {
    proxy: &'a Proxy,
    place: Place,
    destination: SocketAddrV4,
    policy: watch::Receiver<Arc<Reach>>,
    /// What it was let through by, to be looked at again when the policy changes.
    standing: Mutex<Option<(Said, Vec<Arc<str>>)>>,
}

impl Connection<'_> {
    /// Waits until the connection may no longer be.
    async fn revoked(&self, mut policy: watch::Receiver<Arc<Reach>>) {
        while policy.changed().await.is_ok() {
            let reach = Arc::clone(&policy.borrow_and_update());
            let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some((said, bound)) = standing else { continue };
            let forbidden = self.proxy.guard.directory.forbidden();
            let judge =
                |policy: &Egress| decide(policy, forbidden, &bound, self.destination, &said);
            let verdict = judge(&reach.holds).blame(&reach, |asked| judge(asked).is_allowed());
            if !verdict.is_allowed() {
                let host = said_host(&said).or_else(|| bound.first().cloned());
                let target = target(self.destination, host, &verdict);
                return self.proxy.guard.log.record(self.place, target);
            }
        }
    }

    async fn serve(&self, mut client: TcpStream) {
        let forbidden = self.proxy.guard.directory.forbidden();
        let early = decide_early(&self.policy.borrow().holds, forbidden, self.destination);
        if early.is_some() {
            if !self.judge(&Said::Nothing).await.is_allowed() {
                return reset(&client);
            }
            if let Some(server) = self.dial(&client).await {
                let _ = relay::plain(client, server, &[]).await;
            }
            return;
        }
        let Some((bytes, start, server)) = self.listen(&mut client).await else {
            return reset(&client);
        };
        let said = match &start {
            Some(Start::Tls(name)) => Said::Tls(name.clone()),
            Some(Start::Http(Head { host: Some(host), .. })) => Said::Http(host.clone()),
            Some(Start::Http(_)) => return self.refuse(client, Reason::Unnamed, true).await,
            Some(Start::Unknown) => Said::Unknown,
            Some(Start::Broken) => {
                return self.refuse(client, Reason::Unreadable, bytes[0] != 0x16).await;
            }
            Some(Start::Incomplete) => {
                return self.refuse(client, Reason::HeadTimeout, false).await;
            }
            None => Said::Nothing,
        };
        // Who was silent at first was judged as that, and is judged again by what it says now.
        let verdict = self.judge(&said).await;
        if let Verdict::Denied(reason) = verdict {
            drop(server);
            return farewell(client, &start, &self.page(&reason, &said)).await;
        }
        let server = match server {
            Some(server) => server,
            None => match self.dial(&client).await {
                Some(server) => server,
                None => return,
            },
        };
        match start {
            Some(Start::Http(head)) => self.requests(client, server, bytes, head).await,
            _ => {
                let _ = relay::plain(client, server, &bytes).await;
            }
        }
    }

    /// Reads until it is known what the client says. If it says nothing and may connect so, the
    /// server is connected to, and whoever speaks first decides. None if it ended or may not be.
    async fn listen(
        &self,
        client: &mut TcpStream,
    ) -> Option<(Vec<u8>, Option<Start>, Option<TcpStream>)> {
        let mut bytes = Vec::new();
        let mut server = None;
        let first = client.read_buf(&mut bytes);
        let patience = if must_name(self.destination.port()) { HEAD_TIME } else { GRACE };
        match timeout(patience, first).await {
            Ok(read) => {
                read.ok().filter(|size| *size > 0)?;
            }
            Err(_) => {
                if !self.judge(&Said::Nothing).await.is_allowed() {
                    return None;
                }
                let connected = self.dial(client).await?;
                let mut byte = [0];
                let spoken = tokio::select! {
                    read = client.read_buf(&mut bytes) => read.ok(),
                    // Its end counts as speaking, too.
                    _ = connected.peek(&mut byte) => None,
                };
                if !matches!(spoken, Some(1..)) {
                    return Some((bytes, None, Some(connected)));
                }
                server = Some(connected);
            }
        }
        let mut sniffer = Sniffer::default();
        let heard = timeout(HEAD_TIME, async {
            loop {
                match sniffer.look(&bytes) {
                    Start::Incomplete => {}
                    start => return Some(start),
                }
                client.read_buf(&mut bytes).await.ok().filter(|size| *size > 0)?;
            }
        });
        let start = match heard.await {
            Ok(start) => start?,
            Err(_) => Start::Incomplete,
        };
        Some((bytes, Some(start), server))
    }

    /// Decides, notes it, and stands by it.
    async fn judge(&self, said: &Said) -> Verdict {
        let guard = &self.proxy.guard;
        let verdict = self.decide_now(said);
        // The sandbox may know the address from before we were started, or for longer than we
        // remember. What its names lead to now is as good.
        let names = match verdict {
            Verdict::Denied(Reason::HostNotBound) => said_host(said).into_iter().collect(),
            Verdict::Denied(Reason::NotBound) => self.exact_hosts(),
            Verdict::Allowed(_) | Verdict::Denied(_) => Vec::new(),
        };
        let verdict = if names.is_empty() {
            verdict
        } else {
            let _ = timeout(RESOLVE_TIME, guard.bind_now(self.place, &names)).await;
            self.decide_now(said)
        };
        let verdict = self.blame(said, verdict);
        self.note(said, &verdict);
        verdict
    }

    /// Says so if it is not the sandbox's own policy that denies.
    fn blame(&self, said: &Said, verdict: Verdict) -> Verdict {
        let guard = &self.proxy.guard;
        let reach = Arc::clone(&self.policy.borrow());
        verdict.blame(&reach, |asked| {
            let bound = guard.bindings.names(self.place, *self.destination.ip());
            let forbidden = guard.directory.forbidden();
            decide(asked, forbidden, &bound, self.destination, said).is_allowed()
        })
    }

    /// The hosts of the list that are said in full: what the others lead to cannot be asked.
    fn exact_hosts(&self) -> Vec<Arc<str>> {
        let policy = Arc::clone(&self.policy.borrow());
        let names = policy.holds.hosts.iter().map(ToString::to_string);
        names.filter(|name| !name.starts_with('*')).take(RESOLVE_MAX).map(Into::into).collect()
    }

    /// The decision by what is known at this moment. Between it and what stands nothing is
    /// awaited, so that no change of the policy is missed.
    fn decide_now(&self, said: &Said) -> Verdict {
        let guard = &self.proxy.guard;
        let bound = guard.bindings.names(self.place, *self.destination.ip());
        let policy = Arc::clone(&self.policy.borrow());
        let forbidden = guard.directory.forbidden();
        let verdict = decide(&policy.holds, forbidden, &bound, self.destination, said);
        if verdict.is_allowed() {
            let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            *standing = Some((said.clone(), bound));
        }
        verdict
    }

    fn note(&self, said: &Said, verdict: &Verdict) {
        let guard = &self.proxy.guard;
        let bound = || guard.bindings.names(self.place, *self.destination.ip()).first().cloned();
        let host = said_host(said).or_else(bound);
        guard.log.record(self.place, target(self.destination, host, verdict));
    }

    /// Connects to the destination; if that fails the client sees it as a reset.
    async fn dial(&self, client: &TcpStream) -> Option<TcpStream> {
        match timeout(DIAL_TIME, (self.proxy.dial)(self.destination)).await {
            Ok(Ok(server)) => {
                // Both ends speak as they do; waiting to fill packets is theirs to decide.
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                // Only towards the internet: a sandbox that sleeps answers no probe.
                let _ = sockopt::set_socket_keepalive(&server, true);
                Some(server)
            }
            Ok(Err(_)) | Err(_) => {
                reset(client);
                None
            }
        }
    }

    async fn requests(&self, client: TcpStream, server: TcpStream, bytes: Vec<u8>, head: Head) {
        let mut host = head.host.clone();
        let check = |head: &Head| {
            let Some(next) = head.host.clone() else { return Err(Reason::Unnamed) };
            if host.as_ref() == Some(&next) {
                return Ok(());
            }
            let said = Said::Http(next.clone());
            let verdict = self.blame(&said, self.decide_now(&said));
            self.note(&said, &verdict);
            host = Some(next);
            match verdict {
                Verdict::Allowed(_) => Ok(()),
                Verdict::Denied(reason) => Err(reason),
            }
        };
        let refusal = |reason: &Reason| self.page(reason, &Said::Unknown);
        relay::http(client, server, bytes, head, check, refusal).await;
    }

    async fn refuse(&self, client: TcpStream, reason: Reason, http: bool) {
        self.note(&Said::Unknown, &Verdict::Denied(reason.clone()));
        if http {
            page::send(client, &self.page(&reason, &Said::Unknown)).await;
        } else {
            reset(&client);
        }
    }

    fn page(&self, reason: &Reason, said: &Said) -> Vec<u8> {
        page::forbidden(reason, said_host(said).as_deref(), self.destination)
    }
}

/// Tells a client in its own protocol that this may not be.
async fn farewell(client: TcpStream, start: &Option<Start>, page: &[u8]) {
    match start {
        Some(Start::Http(_)) => page::send(client, page).await,
        Some(Start::Tls(_)) => page::send(client, &page::ACCESS_DENIED).await,
        _ => reset(&client),
    }
}

fn said_host(said: &Said) -> Option<Arc<str>> {
    match said {
        Said::Tls(Some(name)) | Said::Http(name) => Some(name.to_ascii_lowercase().into()),
        Said::Tls(None) | Said::Nothing | Said::Unknown => None,
    }
}

fn target(destination: SocketAddrV4, host: Option<Arc<str>>, verdict: &Verdict) -> Target {
    Target {
        address: Some(*destination.ip()),
        port: destination.port(),
        protocol: Protocol::Tcp,
        host,
        allowed: verdict.is_allowed(),
        reason: verdict.reason().clone(),
    }
}

/// Has the connection end as one that was refused, not as one that is over.
fn reset(client: &TcpStream) {
    let _ = sockopt::set_socket_linger(client, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
