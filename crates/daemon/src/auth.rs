//! Who asks, and what of it is theirs. Being allowed is a value that a handler holds: one that
//! takes none of these types cannot reach anybody's sandbox.

use api::ErrorCode;
use axum::{
    extract::{FromRequestParts, Path},
    http::{HeaderMap, header, request::Parts},
};
use orchestrator::{Sandbox, model::User};

use crate::{
    app::{App, Shared},
    failure::Failure,
};

/// The other end of a connection, put on its requests by [`crate::connections`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Somebody over TCP, of whom nothing is known.
    Tcp,
    /// A process on this host, as the kernel vouches.
    Local {
        /// Its effective user.
        uid: u32,
    },
}

/// A known user.
#[derive(Debug)]
pub(crate) struct Caller(pub(crate) User);

/// A known user who is an admin.
#[derive(Debug)]
pub(crate) struct Admin;

/// A sandbox that belongs to the caller, named by the `id` of the route.
#[derive(Debug)]
pub(crate) struct OwnedSandbox(pub(crate) Sandbox);

/// The `id` of the route, as it was sent.
#[derive(Debug)]
pub(crate) struct Id(pub(crate) String);

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let peer = parts.extensions.get().copied().unwrap_or(Peer::Tcp);
        identify(&parts.headers, peer, app).map(Self)
    }
}

impl FromRequestParts<App> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let Caller(user) = Caller::from_request_parts(parts, app).await?;
        if user.admin {
            return Ok(Self);
        }
        Err(Failure::new(ErrorCode::Forbidden, "only admins may do this"))
    }
}

impl FromRequestParts<App> for OwnedSandbox {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let Caller(user) = Caller::from_request_parts(parts, app).await?;
        let Id(id) = Id::from_request_parts(parts, app).await?;
        Ok(Self(app.orchestrator.find(&user.id, &id)?))
    }
}

impl FromRequestParts<App> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        let Path(id) =
            path.map_err(|error| Failure::new(ErrorCode::InvalidRequest, error.body_text()))?;
        Ok(Self(id))
    }
}

/// A key that was sent decides alone, so that root can act as somebody else and never acts as the
/// admin because of a mistyped key.
fn identify(headers: &HeaderMap, peer: Peer, app: &Shared) -> Result<User, Failure> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let key = value.to_str().ok().and_then(bearer);
        return key.and_then(|key| app.store.user_by_key(key)).ok_or_else(|| {
            Failure::new(ErrorCode::InvalidApiKey, "the API key is not valid")
                .hint("keys start with bht_ and are sent as Authorization: Bearer KEY")
        });
    }
    let local_admin = match peer {
        Peer::Local { uid } if uid == 0 || uid == app.own_uid => app.store.admin(),
        Peer::Local { .. } | Peer::Tcp => None,
    };
    local_admin.ok_or_else(|| {
        Failure::new(ErrorCode::Unauthorized, "an API key is required")
            .hint("send it as Authorization: Bearer KEY")
    })
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
