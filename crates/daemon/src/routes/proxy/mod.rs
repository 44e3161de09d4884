//! HTTP and WebSockets to servers in sandboxes: `/sandboxes/:id/proxy/:port/…`.
//!
//! The path after the port and the query reach the server as they were sent; see [`crate::proxy`]
//! for how. What a sandbox answers has the daemon's own origin here: for browsers it should be
//! published under an address of its own.

mod target;
#[cfg(test)]
mod tests;

use api::ErrorCode;
use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use self::target::Target;
use super::ports::parse_port;
use crate::{
    app::App,
    auth::{self, OwnedSandbox},
    connections::{Address, Secure},
    failure::Failure,
    proxy::{Came, Exchange, Way, wanted_upgrade},
};

pub(crate) async fn proxy(State(app): State<App>, request: Request) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let target = Target::of(&uri).ok_or_else(|| Failure::internal("not a proxy path"))?;
    let OwnedSandbox(sandbox) = auth::sandbox_for_guest(&mut parts, &target.id(), &app)?;
    let port = parse_port(target.port)?;
    if let Some(place) = target.with_slash()
        && matches!(parts.method, Method::GET | Method::HEAD)
        && wanted_upgrade(&parts.headers).is_none()
    {
        return Ok((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, place)]).into_response());
    }
    let path = target
        .for_guest()
        .ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, "the path cannot be passed on"))?;
    parts.uri = path;
    let came = Came {
        peer: parts.extensions.get().map(|Address(address)| *address),
        // Whoever has a key may say what they like.
        trusted: true,
        secure: parts.extensions.get::<Secure>().is_some(),
        prefix: None,
        own_host: false,
    };
    let pool = app.pool.clone();
    Exchange { pool, sandbox, port, way: Way::Owner, came }.run(parts, body).await
}
