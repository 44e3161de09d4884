//! Who asks, and what of it is theirs. Being allowed is a value that a handler holds: one that
//! takes none of these types cannot reach anybody's sandbox.

use std::collections::HashMap;

use api::{ErrorCode, headers::TOKEN};
use axum::{
    extract::{FromRequestParts, Path},
    http::{HeaderMap, HeaderValue, header, request::Parts},
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

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        param(parts, "id").await.map(Self)
    }
}

/// A part of the path that the route gives a name.
pub(crate) async fn param(parts: &mut Parts, name: &str) -> Result<String, Failure> {
    let path = Path::<HashMap<String, String>>::from_request_parts(parts, &()).await;
    let Path(mut all) =
        path.map_err(|error| Failure::new(ErrorCode::InvalidRequest, error.body_text()))?;
    all.remove(name).ok_or_else(|| Failure::internal(format!("the route has no {name}")))
}

/// Refuses what a browser sends for a page of another site. Where no key is needed, nothing else
/// would keep such a page from talking to the daemon over an upgraded connection.
pub(crate) fn same_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = origins.next().is_none()
        && origin.to_str().ok().zip(host).is_some_and(|(origin, host)| is_own(origin, host));
    if own {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Forbidden, "the request comes from a page of another site"))
}

/// The page that a request comes from, if a browser says so, and says one.
pub(crate) fn origin(headers: &HeaderMap) -> Option<&str> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (first, second) = (origins.next()?, origins.next());
    first.to_str().ok().filter(|_| second.is_none())
}

/// Whether an origin such as `https://name:port` is the host that was asked.
fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let plain = |text: &str| text.strip_suffix(usual).unwrap_or(text).to_ascii_lowercase();
    !authority.is_empty() && plain(authority) == plain(host)
}

/// A key that was sent decides alone, so that root can act as somebody else and never acts as the
/// admin because of a mistyped key. Of two keys it is the one in [`TOKEN`].
fn identify(headers: &HeaderMap, peer: Peer, app: &Shared) -> Result<User, Failure> {
    if let Some(value) = headers.get(TOKEN) {
        return owner_of(value.to_str().ok(), app);
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return owner_of(value.to_str().ok().and_then(bearer), app);
    }
    local_admin(peer, app)
}

/// Identifies the caller of the proxy route, where `Authorization` may be meant for the server in the
/// sandbox, and takes whatever is a key of ours out of the headers:
///
/// 1. [`TOKEN`] decides alone if it is there. `Authorization` then belongs to the guest, unless it
///    carries the very same key.
/// 2. Otherwise an `Authorization: Bearer bht_…` decides alone.
/// 3. Otherwise only the kernel's word counts: the admin on the Unix socket. An `Authorization` of
///    another form is no key of ours, decides nothing and belongs to the guest.
///
/// So nobody is let in here who would be refused elsewhere: other routes refuse case 3 with such a
/// header because there it can only be a mistake.
fn identify_for_guest(headers: &mut HeaderMap, peer: Peer, app: &Shared) -> Result<User, Failure> {
    let token = headers.remove(TOKEN);
    let sent: Vec<HeaderValue> = headers.get_all(header::AUTHORIZATION).iter().cloned().collect();
    let is_ours = |value: &HeaderValue| match (&token, own_key(value)) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(token), Some(key)) => token.as_bytes().trim_ascii() == key.as_bytes(),
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = sent.into_iter().partition(is_ours);
    headers.remove(header::AUTHORIZATION);
    for value in theirs {
        headers.append(header::AUTHORIZATION, value);
    }
    match (&token, ours.first()) {
        (Some(token), _) => owner_of(token.to_str().ok(), app),
        (None, Some(value)) => owner_of(own_key(value), app),
        (None, None) => local_admin(peer, app).map_err(|failure| {
            failure.hint("send it as X-Bhatti-Token: KEY or Authorization: Bearer KEY")
        }),
    }
}

/// The sandbox of that name or id for the caller of the proxy route; see [`identify_for_guest`].
pub(crate) fn sandbox_for_guest(
    parts: &mut Parts,
    id: &str,
    app: &App,
) -> Result<OwnedSandbox, Failure> {
    let peer = parts.extensions.get().copied().unwrap_or(Peer::Tcp);
    let user = identify_for_guest(&mut parts.headers, peer, app)?;
    Ok(OwnedSandbox(app.orchestrator.find(&user.id, id)?))
}

fn owner_of(key: Option<&str>, app: &Shared) -> Result<User, Failure> {
    key.and_then(|key| app.store.user_by_key(key.trim())).ok_or_else(|| {
        Failure::new(ErrorCode::InvalidApiKey, "the API key is not valid")
            .hint("keys start with bht_ and are sent as Authorization: Bearer KEY")
    })
}

fn local_admin(peer: Peer, app: &Shared) -> Result<User, Failure> {
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
    let (scheme, key) = value.split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// The key in an `Authorization`, if it has the form of ours.
fn own_key(value: &HeaderValue) -> Option<&str> {
    bearer(value.to_str().ok()?).filter(|key| key.starts_with("bht_"))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn pages_of_other_sites_are_told_by_their_origin() {
        for (origin, host, allowed) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("https://Bhatti.example", "bhatti.example", true),
            ("https://bhatti.example", "bhatti.example:443", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://127.0.0.1:3000", "127.0.0.1:8080", false),
            ("https://evil.example", "bhatti.example", false),
            ("https://bhatti.example.evil.example", "bhatti.example", false),
            ("null", "bhatti.example", false),
            ("file://", "", false),
            ("http://", "", false),
        ] {
            let request = Request::builder().header("origin", origin).header("host", host);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(same_origin(&parts.headers).is_ok(), allowed, "{origin} {host}");
        }
        let twice = Request::builder().header("origin", "http://a").header("origin", "http://b");
        let (parts, ()) = twice.header("host", "a").body(()).unwrap().into_parts();
        assert_eq!(same_origin(&parts.headers).unwrap_err().code, ErrorCode::Forbidden);
        same_origin(&HeaderMap::new()).unwrap();
    }
}
