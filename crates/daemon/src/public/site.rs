//! Where publications are found, and what a request asks for.

use std::net::{IpAddr, SocketAddr};

use axum::http::{
    HeaderMap, HeaderValue, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use orchestrator::publications::Place;

use super::trouble::Trouble;

/// The addresses that visitors see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// Every alias is a host in this zone; without one, the first part of the path.
    pub(crate) zone: Option<String>,
    pub(crate) origin: Origin,
}

/// Scheme, host and port. Of a site with a zone the host is the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) secure: bool,
    /// An IPv6 address has its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) alias: String,
    /// What the server is asked for: path and query, byte by byte.
    pub(super) uri: Uri,
    /// What was taken off the path.
    pub(super) prefix: Option<String>,
    /// Where the same is found with the slash that relative links need, if it has none.
    pub(super) with_slash: Option<String>,
}

impl Origin {
    /// What people type to reach a listener on that address.
    pub(crate) fn of(bound: SocketAddr, secure: bool) -> Self {
        Self { secure, host: host_of(bound.ip()), port: bound.port() }
    }

    fn is_usual(&self) -> bool {
        self.port == if self.secure { 443 } else { 80 }
    }

    /// What visitors see of the listener, without a slash at the end.
    pub(crate) fn root(&self) -> String {
        self.url(&self.host).trim_end_matches('/').to_owned()
    }

    pub(super) fn url(&self, host: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let port = if self.is_usual() { String::new() } else { format!(":{}", self.port) };
        format!("{scheme}://{host}{port}/")
    }
}

impl Site {
    /// Where the public finds it.
    pub(crate) fn url(&self, place: &Place) -> String {
        let host = &self.origin.host;
        match (place, &self.zone) {
            (Place::Alias(alias), Some(zone)) => self.origin.url(&format!("{alias}.{zone}")),
            (Place::Alias(alias), None) => format!("{}{alias}/", self.origin.url(host)),
            (Place::HostPort(port), _) => format!("tcp://{host}:{port}"),
        }
    }

    /// Whether a request is for what the listener itself has below `path`, and for no alias: in a
    /// zone only its own name has that.
    pub(super) fn is_own(&self, parts: &Parts, sni: Option<&str>, path: &str) -> bool {
        let rest = parts.uri.path().strip_prefix(path);
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return false;
        }
        let Some(zone) = &self.zone else { return true };
        // Whatever is wrong with the host is found where aliases are.
        let authority = || parts.headers.get(header::HOST)?.to_str().ok()?.parse().ok();
        let host = parts.uri.authority().cloned().or_else(authority);
        let is_zone = |name: &str| name.trim_end_matches('.').eq_ignore_ascii_case(zone);
        host.is_some_and(|host| is_zone(host.host())) && sni.is_none_or(is_zone)
    }

    /// What a request asks for. Its host is known from then on by the header alone.
    pub(super) fn route(&self, parts: &mut Parts, sni: Option<&str>) -> Result<Route, Trouble> {
        let host = settle_host(parts)?;
        if sni.is_some_and(|sni| !sni.eq_ignore_ascii_case(&host)) {
            return Err(Trouble::misdirected());
        }
        let path = parts.uri.path_and_query().filter(|path| path.as_str().starts_with('/'));
        let path = path.cloned().ok_or_else(Trouble::odd)?;
        match &self.zone {
            Some(zone) => {
                let alias = host.strip_suffix(zone).and_then(|rest| rest.strip_suffix('.'));
                let alias = alias.ok_or_else(Trouble::unknown)?.to_owned();
                Ok(Route { alias, uri: path.into(), prefix: None, with_slash: None })
            }
            None => below(&path),
        }
    }
}

/// What people type to reach this host; a listener on every address has none of its own.
fn host_of(address: IpAddr) -> String {
    match address {
        any if any.is_unspecified() => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// The first part of the path is the alias.
fn below(path: &PathAndQuery) -> Result<Route, Trouble> {
    let (name, query) = (path.path(), path.query());
    let alias = name[1..].split('/').next().unwrap_or_default();
    let rest = &name[1 + alias.len()..];
    let with_query = |path: &str| match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let for_guest = with_query(if rest.is_empty() { "/" } else { rest });
    let uri = PathAndQuery::try_from(for_guest).map_err(|_| Trouble::odd())?.into();
    // Relative to the last part of the path, so that a prefix that somebody in between has taken
    // off stays.
    let with_slash = rest.is_empty().then(|| with_query(&format!("{alias}/")));
    Ok(Route { alias: alias.to_owned(), uri, prefix: Some(format!("/{alias}")), with_slash })
}

/// The one host that a request is for, in small letters and without port. HTTP/2 says it in the
/// target and HTTP/1.1 in a header, and neither may say two.
fn settle_host(parts: &mut Parts) -> Result<String, Trouble> {
    let mut sent = parts.headers.get_all(header::HOST).iter();
    let (first, more) = (sent.next().cloned(), sent.next().is_some());
    let header = match &first {
        Some(value) => {
            let text = value.to_str().map_err(|_| Trouble::odd())?;
            Some(text.parse::<Authority>().map_err(|_| Trouble::odd())?)
        }
        None => None,
    };
    let target = parts.uri.authority().cloned();
    let host = match (header, target) {
        _ if more => return Err(Trouble::odd()),
        (Some(header), Some(target)) if header != target => return Err(Trouble::odd()),
        (_, Some(target)) => {
            let value = HeaderValue::from_str(target.as_str()).map_err(|_| Trouble::odd())?;
            parts.headers.insert(header::HOST, value);
            target
        }
        (Some(header), None) => header,
        (None, None) => return Err(Trouble::odd()),
    };
    if host.as_str().contains('@') {
        return Err(Trouble::odd());
    }
    let name = host.host().trim_end_matches('.');
    Ok(name.to_ascii_lowercase())
}

/// Who the client is: whoever the last proxy of ours says that it had before it.
pub(super) fn client(
    peer: IpAddr,
    headers: &HeaderMap,
    is_ours: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    let hops = headers.get_all(crate::proxy::FORWARDED_FOR).iter();
    let hops: Vec<&str> =
        hops.filter_map(|hop| hop.to_str().ok()).flat_map(|hop| hop.split(',')).collect();
    let mut earlier = hops.into_iter().rev();
    while is_ours(client)
        && let Some(hop) = earlier.next().and_then(|hop| hop.trim().parse::<IpAddr>().ok())
    {
        client = hop.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests;
