//! What the public reaches: publications, links to terminals (see [`crate::share`]), and nothing else.
//!
//! ```text
//! request ─► site: which alias? ─► store ─► allowed from there? ─► meters ─► guard: token, password
//!                                                                              │
//!     page or JSON ◄── trouble ◄────────── Exchange ◄── door: place, wake ◄────┘
//! ```
//! Invariant: no route of the API is here, and no API key means anything.

mod door;
mod guard;
mod listener;
mod meter;
pub(crate) mod redirect;
mod site;
mod tcp;
#[cfg(test)]
mod tests;
mod trouble;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use base::ids::PublicationId;
use ipnet::IpNet;
use orchestrator::{
    Orchestrator, Sandbox,
    model::Status,
    publications::{Guard, Publication},
};
use tower::Service as _;

use self::{
    door::Doors,
    guard::{Passage, Scope},
    site::Route,
    trouble::{Reader, Trouble},
};
pub(crate) use self::{
    door::{Door, Place},
    listener::PublicListener,
    meter::{Meter, Rate},
    site::{Origin, Site},
    tcp::HostPorts,
};
use crate::{
    connections::{Address, Secure, network},
    proxy::{Came, Exchange, Pool, Way, wanted_upgrade},
    share::{self, Shell, Visitor},
};

/// Most clients and aliases whose requests are counted, in each of two generations.
const MOST_COUNTED: usize = 10_000;

/// How often the public may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) client: Rate,
    pub(crate) alias: Rate,
    pub(crate) all: Rate,
}

impl Default for Limits {
    /// A development server is asked for some hundred files at once by one page.
    fn default() -> Self {
        Self {
            client: Rate { per_min: 1500, burst: 500 },
            alias: Rate { per_min: 5000, burst: 2000 },
            all: Rate { per_min: 60_000, burst: 10_000 },
        }
    }
}

/// What all requests of the public share.
#[derive(Debug)]
pub(crate) struct Public {
    orchestrator: Orchestrator,
    pool: Pool,
    site: Site,
    /// Proxies whose word about their clients counts.
    trusted: Vec<IpNet>,
    doors: Arc<Doors>,
    clients: Meter<IpAddr>,
    aliases: Meter<PublicationId>,
    all: Meter<()>,
    pub(crate) shell: Arc<Shell>,
    shells: Router,
}

impl Public {
    pub(crate) fn new(
        orchestrator: Orchestrator,
        pool: Pool,
        site: Site,
        (limits, trusted): (Limits, Vec<IpNet>),
    ) -> Arc<Self> {
        let shell = Shell::new(orchestrator.clone(), Some(site.origin.clone()));
        let lost = async || Trouble::unknown().answer(Reader::of(&Method::GET, &HeaderMap::new()));
        Arc::new(Self {
            orchestrator,
            pool,
            site,
            shells: Arc::clone(&shell).router().fallback(lost),
            shell,
            trusted,
            doors: Doors::new(),
            clients: Meter::new(limits.client, MOST_COUNTED),
            aliases: Meter::new(limits.alias, MOST_COUNTED),
            all: Meter::new(limits.all, 1),
        })
    }

    /// The whole of what the public listener serves.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(serve).with_state(self)
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(&address))
    }

    /// Hears somebody from there, as often as the limits say.
    fn admit(&self, publication: &Publication, client: IpAddr) -> Result<(), Trouble> {
        if !publication.allows(client) {
            return Err(Trouble::forbidden());
        }
        self.clients.take(network(client)).map_err(Trouble::limited)
    }

    /// Counts somebody who may come in: whoever may not uses up nothing of those who may.
    fn count(&self, publication: &Publication) -> Result<(), Trouble> {
        let taken = self.aliases.take(publication.id.clone());
        taken.and_then(|()| self.all.take(())).map_err(Trouble::limited)
    }

    /// A link to a terminal, which is nobody's alias.
    async fn shell(&self, mut parts: Parts, body: Body) -> Result<Response, Trouble> {
        if let Some(Address(peer)) = parts.extensions.get().copied() {
            let client = site::client(peer, &parts.headers, |address| self.is_trusted(address));
            let taken = self.clients.take(network(client)).and_then(|()| self.all.take(()));
            taken.map_err(Trouble::limited)?;
            parts.extensions.insert(Visitor(client));
        }
        let answer = self.shells.clone().call(Request::from_parts(parts, body)).await;
        Ok(answer.unwrap_or_else(|never| match never {}))
    }

    async fn answer(&self, mut parts: Parts, body: Body) -> Result<Response, Trouble> {
        if parts.method == Method::CONNECT {
            return Err(Trouble::odd());
        }
        let secure = parts.extensions.get::<Secure>().cloned();
        let sni = secure.as_ref().and_then(Secure::name);
        if self.site.is_own(&parts, sni, share::BELOW) {
            return self.shell(parts, body).await;
        }
        let original = parts.uri.clone();
        let route = self.site.route(&mut parts, sni)?;
        let found = self.orchestrator.by_alias(&route.alias);
        let (publication, sandbox) = found.ok_or_else(Trouble::unknown)?;
        let peer = parts.extensions.get().map(|Address(address)| address.to_canonical());
        let peer = peer.ok_or_else(Trouble::odd)?;
        let trusted = self.is_trusted(peer);
        let client = site::client(peer, &parts.headers, |address| self.is_trusted(address));
        self.admit(&publication, client)?;
        let Route { uri, prefix, with_slash, .. } = route;
        let scope = Scope { prefix: prefix.as_deref(), secure: self.site.origin.secure };
        match guard::pass(&publication.guard, &mut parts, &original, scope)? {
            Passage::Goes => {}
            Passage::Again(response) => return Ok(response),
        }
        self.count(&publication)?;
        look(&sandbox)?;
        if let Some(place) = with_slash
            && matches!(parts.method, Method::GET | Method::HEAD)
            && wanted_upgrade(&parts.headers).is_none()
        {
            return Ok(
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, place)]).into_response()
            );
        }
        parts.uri = uri;
        let (secure, shares_origin) = (secure.is_some(), prefix.is_some());
        let came = Came { peer: Some(peer), trusted, secure, prefix, own_host: true };
        let door = self.doors.of(&publication);
        // Whoever withdraws it from now on finds the door.
        if !door.is_published(self.orchestrator.store()) {
            return Err(Trouble::unknown());
        }
        let way = Way::Public(door, client);
        let port = publication.port;
        let exchange = Exchange { pool: self.pool.clone(), sandbox, port, way, came };
        let mut response = match exchange.run(parts, body).await {
            Ok(response) => response,
            // It may have been stopped while the request waited.
            Err(failure) => {
                look(&exchange.sandbox)?;
                return Err(Trouble::from_failure(failure));
            }
        };
        if shares_origin {
            // Its worker would see requests to other aliases, and to links to terminals.
            response.headers_mut().remove("service-worker-allowed");
        }
        if publication.guard != Guard::Open || !publication.allow.is_empty() {
            keep_private(&mut response);
        }
        Ok(response)
    }
}

async fn serve(State(public): State<Arc<Public>>, request: Request) -> Response {
    let reader = Reader::of(request.method(), request.headers());
    let (parts, body) = request.into_parts();
    match public.answer(parts, body).await {
        Ok(response) => response,
        Err(trouble) => trouble.answer(reader),
    }
}

/// Whether there is any use in trying. Whoever sleeps is woken.
fn look(sandbox: &Sandbox) -> Result<(), Trouble> {
    match sandbox.view().status {
        Status::Stopped => Err(Trouble::stopped()),
        Status::Failed => Err(Trouble::unavailable()),
        Status::Destroying => Err(Trouble::unknown()),
        Status::Creating | Status::Starting | Status::Running => Ok(()),
    }
}

/// What not everybody may see is not for caches that everybody uses.
fn keep_private(response: &mut Response) {
    let headers = response.headers_mut();
    for of_caches in ["cdn-cache-control", "surrogate-control"] {
        headers.remove(of_caches);
    }
    let said = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|said| said.to_str().ok());
    let words = said.flat_map(|said| said.split(',')).map(str::trim);
    let shared = |word: &&str| {
        let word = word.to_ascii_lowercase();
        word == "public" || word == "private" || word.starts_with("s-maxage")
    };
    let kept: Vec<&str> = words.filter(|word| !word.is_empty() && !shared(word)).collect();
    let all = [&["private"], &kept[..]].concat().join(", ");
    let all = HeaderValue::from_str(&all).unwrap_or(HeaderValue::from_static("private"));
    headers.insert(header::CACHE_CONTROL, all);
}

#[cfg(test)]
mod caching {
    use axum::body::Body;

    use super::*;

    #[test]
    fn guarded_answers_are_for_no_shared_cache() {
        for (said, kept) in [
            (None, "private"),
            (Some("public, max-age=60"), "private, max-age=60"),
            (Some("S-MaxAge=9, no-store"), "private, no-store"),
            (Some("private"), "private"),
        ] {
            let mut response = Response::new(Body::empty());
            response
                .headers_mut()
                .insert("surrogate-control", HeaderValue::from_static("max-age=9"));
            if let Some(said) = said {
                response
                    .headers_mut()
                    .insert(header::CACHE_CONTROL, HeaderValue::from_static(said));
            }
            keep_private(&mut response);
            assert_eq!(response.headers()[header::CACHE_CONTROL], kept);
            assert!(!response.headers().contains_key("surrogate-control"));
        }
    }
}
