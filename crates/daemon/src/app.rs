//! What handlers share, and the layer around every request.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use api::{ErrorCode, headers};
use axum::{
    Router,
    extract::{FromRequestParts, Request},
    http::{HeaderName, HeaderValue, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use orchestrator::{Orchestrator, store::Store};

use crate::{
    failure::Failure,
    proxy::Pool,
    public::{HostPorts, Origin, Site},
    routes,
    share::Shell,
    tls::Certificates,
};

/// This program's version, on every answer.
const VERSION: HeaderValue = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
/// The oldest CLI that understands the answers.
const MIN_CLI: HeaderValue = HeaderValue::from_static("0.1.0");
/// What a refusal has to say besides its body.
const FAILURE_HEADERS: [HeaderName; 2] = [header::ALLOW, header::CONTENT_RANGE];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What handlers share; clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct App(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) store: Store,
    pub(crate) json_body_max: usize,
    pub(crate) started: Instant,
    /// Idle connections to servers in sandboxes.
    pub(crate) pool: Pool,
    /// Where publications are found, if there is a public listener.
    pub(crate) site: Option<Site>,
    /// What listens on published ports of the host, if there is one.
    pub(crate) host_ports: Option<Arc<HostPorts>>,
    /// How the listeners are encrypted.
    pub(crate) certificates: Arc<Certificates>,
    /// Where links to terminals lead.
    pub(crate) shell: Arc<Shell>,
    /// Whether that is here.
    shells_here: bool,
    /// Whom the daemon runs as, and so who is its admin on the Unix socket besides root.
    pub(crate) own_uid: u32,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What a daemon with a public listener has besides.
#[derive(Debug, Default)]
pub(crate) struct WithPublic {
    pub(crate) pool: Pool,
    pub(crate) site: Option<Site>,
    pub(crate) host_ports: Option<Arc<HostPorts>>,
    pub(crate) certificates: Arc<Certificates>,
    /// Where links to terminals lead; to the API's own listener if absent.
    pub(crate) shell: Option<Arc<Shell>>,
    /// What browsers see of the API's own listener, if it is one that they reach.
    pub(crate) origin: Option<Origin>,
}

impl App {
    /// A daemon without a public listener.
    #[cfg(test)]
    pub(crate) fn new(orchestrator: Orchestrator, json_body_max: usize) -> Self {
        Self::with_public(orchestrator, json_body_max, WithPublic::default())
    }

    pub(crate) fn with_public(
        orchestrator: Orchestrator,
        json_body_max: usize,
        public: WithPublic,
    ) -> Self {
        let origin = public.origin;
        let own = || Shell::new(orchestrator.clone(), origin);
        Self(Arc::new(Shared {
            shells_here: public.shell.is_none(),
            shell: public.shell.unwrap_or_else(own),
            store: orchestrator.store().clone(),
            orchestrator,
            json_body_max,
            started: Instant::now(),
            pool: public.pool,
            site: public.site,
            host_ports: public.host_ports,
            certificates: public.certificates,
            own_uid: rustix::process::geteuid().as_raw(),
        }))
    }
}

/// Names one request, in its answer and in the log.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    pub(crate) fn new() -> Self {
        Self(format!("req_{}", base::random::hex::<8>()).into())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let id = parts.extensions.get::<Self>().cloned();
        id.ok_or_else(|| Failure::internal("the request has no id"))
    }
}

/// The whole interface.
pub(crate) fn router(app: App) -> Router {
    let links = match app.shells_here {
        true => Arc::clone(&app.shell).router(),
        false => Router::new(),
    };
    let routes = routes::all()
        .fallback(async || Failure::new(ErrorCode::NotFound, "there is no such route"))
        .method_not_allowed_fallback(async || {
            Failure::new(ErrorCode::MethodNotAllowed, "the route does not take this method")
        })
        .with_state(app)
        .merge(links);
    surrounded(routes)
}

/// Routes with the layer that every request passes.
pub(crate) fn surrounded(routes: Router) -> Router {
    routes.layer(middleware::from_fn(around))
}

/// Gives the request its id, turns failures into bodies, and sets what every answer has.
async fn around(mut request: Request, next: Next) -> Response {
    let id = RequestId::new();
    let began = Instant::now();
    let line = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_owned()));
    request.extensions_mut().insert(id.clone());
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response =
        handled.unwrap_or_else(|_| Failure::internal("the handler panicked").into_response());
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        let kept = FAILURE_HEADERS.map(|name| (response.headers_mut().remove(&name), name));
        response = failure.into_reported(&id);
        for (value, name) in kept {
            if let Some(value) = value {
                response.headers_mut().insert(name, value);
            }
        }
    }
    let set = response.headers_mut();
    set.insert(HeaderName::from_static(headers::VERSION), VERSION);
    set.insert(HeaderName::from_static(headers::MIN_CLI), MIN_CLI);
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        set.insert(REQUEST_ID, value);
    }
    if let Some((method, path)) = line {
        let micros = began.elapsed().as_micros();
        tracing::debug!(request = %id, %method, path, status = response.status().as_u16(), micros);
    }
    response
}
