//! Links to a terminal of a sandbox, for whoever has no account.
//!
//! ```text
//! GET /_shell/ID    ─► the same page for every ID ─► script ─┐ the token, from behind the #
//! GET /_shell/ID/ws ─► WebSocket ◄───────────────────────────┘ as the first message
//!                         └─► digest of the token ─► wake ─► the shared session
//! ```
//! The token is in no request's address, so it is in no log, no history of a proxy and no `Referer`.
//! Served by the public listener if there is one, else by the API's.
//!
//! Invariant: nothing here asks who the caller is, and no API key means anything.

mod page;
mod viewers;
mod visit;

use std::{net::IpAddr, sync::Arc};

use api::ErrorCode;
use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts as _, Path, Request, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use orchestrator::Orchestrator;
use tokio::sync::Semaphore;

use self::viewers::Viewers;
use crate::{
    app::RequestId,
    auth,
    connections::{Address, network},
    failure::Failure,
    public::{Meter, Origin, Rate},
    terminal::Talk,
    websocket::Upgrade,
};

/// What all paths of links begin with. No alias can be this.
pub(crate) const BELOW: &str = "/_shell";

/// How often a client may be wrong about a token.
const WRONG: Rate = Rate { per_min: 20, burst: 20 };
/// Most clients of whom that is counted, in each of two generations.
const MOST_COUNTED: usize = 10_000;
/// Most connections at once that have not said a token yet.
const MOST_STRANGERS: usize = 256;

/// Where the visitor of a request is, if somebody knows better than the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor(pub(crate) IpAddr);

/// What all visitors share.
#[derive(Debug)]
pub(crate) struct Shell {
    orchestrator: Orchestrator,
    /// What visitors see of the listener, if browsers reach one.
    origin: Option<Origin>,
    pub(crate) viewers: Arc<Viewers>,
    wrong: Meter<IpAddr>,
    strangers: Arc<Semaphore>,
}

impl Shell {
    pub(crate) fn new(orchestrator: Orchestrator, origin: Option<Origin>) -> Arc<Self> {
        Arc::new(Self {
            orchestrator,
            origin,
            viewers: Arc::default(),
            wrong: Meter::new(WRONG, MOST_COUNTED),
            strangers: Arc::new(Semaphore::new(MOST_STRANGERS)),
        })
    }

    /// The link to a share, without its token.
    pub(crate) fn url(&self, share: &str) -> Option<String> {
        self.origin.as_ref().map(|origin| format!("{}{BELOW}/{share}", origin.root()))
    }

    /// Everything below [`BELOW`].
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/_shell/{share}", get(page::page))
            .route("/_shell/assets/{version}/{file}", get(page::asset))
            .route("/_shell/{share}/ws", get(terminal))
            .with_state(self)
    }

    /// Whether a page of this origin is ours, for all that its request is for another host, as it
    /// is behind a proxy that changes that.
    fn is_own(&self, origin: &str) -> bool {
        self.origin.as_ref().is_some_and(|own| own.root().eq_ignore_ascii_case(origin))
    }
}

/// The WebSocket. Whether there is such a share is looked at only with a token.
async fn terminal(
    State(shell): State<Arc<Shell>>,
    Path(share): Path<String>,
    request: Request<Body>,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let id = parts.extensions.get().cloned().unwrap_or_else(RequestId::new);
    if auth::origin(&parts.headers).is_some_and(|origin| shell.is_own(origin)) {
        parts.headers.remove(axum::http::header::ORIGIN);
    }
    let upgrade = match Upgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(failure) => return failure.into_reported(&id),
    };
    let Ok(stranger) = Arc::clone(&shell.strangers).try_acquire_owned() else {
        let told = "too many connections wait for a token";
        return Failure::new(ErrorCode::RateLimited, told).into_reported(&id);
    };
    let address = parts.extensions.get().map(|Address(address)| *address);
    let visitor = parts.extensions.get().map(|Visitor(visitor)| *visitor).or(address);
    let visitor = visitor.map(network);
    let visit = visit::Visit { shell, share, visitor, id };
    let answer = upgrade.answer(|socket, stop| async move {
        visit.run(Talk::new(socket, stop).await, stranger).await;
    });
    answer.into_response()
}

#[cfg(test)]
mod tests;
