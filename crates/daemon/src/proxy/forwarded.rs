//! Headers on their way through.

use std::net::IpAddr;

use api::headers::TOKEN;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that mean one connection only, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// What only proxies say. Of one that is not trusted it is anybody's invention.
const PROXIES_WORDS: [HeaderName; 7] = [
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    FORWARDED_PREFIX,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
    header::FORWARDED,
];

/// How a request came to us, as its server is told.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    /// The other end of the connection, if it has an address.
    pub(crate) peer: Option<IpAddr>,
    /// Whether what the other end says about clients before it counts.
    pub(crate) trusted: bool,
    /// Whether the connection was encrypted.
    pub(crate) secure: bool,
    /// What was taken off the path's beginning, if the server is to know.
    pub(crate) prefix: Option<String>,
    /// Whether the server gets to see the host that was asked for, or its own name for itself.
    pub(crate) own_host: bool,
}

/// Makes the headers of a request those that the server in the sandbox gets. A key of ours is gone
/// already, by [`crate::auth`].
pub(super) fn to_guest(
    headers: &mut HeaderMap,
    port: u16,
    came: &Came,
    upgrade: Option<HeaderValue>,
) {
    let trailers = headers.get_all(header::TE).iter().any(mentions_trailers);
    strip(headers);
    headers.remove(header::TE);
    headers.remove(TOKEN);
    // The daemon itself tells the client to go on, once somebody reads the body.
    headers.remove(header::EXPECT);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    join_cookies(headers);
    say_where_from(headers, came);
    if !came.own_host
        && let Ok(host) = HeaderValue::from_str(&format!("localhost:{port}"))
    {
        headers.insert(header::HOST, host);
    }
}

/// Makes the headers of an answer those that the client gets.
pub(super) fn from_guest(headers: &mut HeaderMap) {
    strip(headers);
}

fn say_where_from(headers: &mut HeaderMap, came: &Came) {
    // Many servers make the same name of both spellings, and proxies know one of them.
    let spelt_otherwise = |name: &&HeaderName| {
        let plain = name.as_str().replace('_', "-");
        plain != name.as_str() && PROXIES_WORDS.iter().any(|word| word.as_str() == plain)
    };
    let others: Vec<HeaderName> = headers.keys().filter(spelt_otherwise).cloned().collect();
    for name in PROXIES_WORDS.iter().filter(|_| !came.trusted).chain(&others) {
        headers.remove(name);
    }
    if let Some(peer) = came.peer {
        let earlier = headers.get_all(&FORWARDED_FOR).iter();
        let mut hops: Vec<String> =
            earlier.map(|hop| String::from_utf8_lossy(hop.as_bytes()).into_owned()).collect();
        hops.push(peer.to_canonical().to_string());
        if let Ok(hops) = HeaderValue::from_str(&hops.join(", ")) {
            headers.insert(FORWARDED_FOR, hops);
        }
    }
    if !headers.contains_key(&FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    if !headers.contains_key(&FORWARDED_PROTO) {
        let proto = if came.secure { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if let Some(prefix) = &came.prefix {
        let earlier = headers.get(&FORWARDED_PREFIX).and_then(|earlier| earlier.to_str().ok());
        let whole = format!("{}{prefix}", earlier.unwrap_or_default().trim_end_matches('/'));
        if let Ok(whole) = HeaderValue::from_str(&whole) {
            headers.insert(FORWARDED_PREFIX, whole);
        }
    }
}

/// Makes one header of several, as HTTP/1.1 wants it and HTTP/2 does not care.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Takes out what means one connection only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // Of two lengths the encoding counts; the other must not outlive it.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn mentions_trailers(value: &HeaderValue) -> bool {
    let items = value.to_str().unwrap_or_default().split(',');
    items
        .filter_map(|item| item.split(';').next())
        .any(|item| item.trim().eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(peer: Option<&str>) -> Came {
        let peer = peer.map(|address| address.parse().unwrap());
        Came { peer, trusted: true, secure: false, prefix: None, own_host: false }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_only_proxies_say_passes_in_no_spelling() {
        let said = [("host", "a"), ("x_forwarded_for", "127.0.0.1"), ("x-real_ip", "127.0.0.1")];
        for trusted in [true, false] {
            let mut sent = headers(&said);
            sent.insert("x-real-ip", HeaderValue::from_static("192.0.2.1"));
            to_guest(&mut sent, 3000, &Came { trusted, ..came(None) }, None);
            assert!(!sent.contains_key("x_forwarded_for") && !sent.contains_key("x-real_ip"));
            assert_eq!(sent.contains_key("x-real-ip"), trusted);
        }
    }

    #[test]
    fn what_means_one_connection_does_not_pass() {
        let mut sent = headers(&[
            ("host", "api.example:8080"),
            ("connection", "keep-alive, X-Private"),
            ("connection", "x-other,, ?"),
            ("x-private", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, Trailers;q=1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-bhatti-token", "bht_secret"),
            ("authorization", "Basic x"),
            ("cookie", "a=b"),
            ("forwarded", "for=1.2.3.4"),
        ]);
        to_guest(&mut sent, 3000, &came(None), None);
        let expected = headers(&[
            ("host", "localhost:3000"),
            ("te", "trailers"),
            ("authorization", "Basic x"),
            ("cookie", "a=b"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-host", "api.example:8080"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(sent, expected);
    }

    #[test]
    fn an_upgrade_passes_if_it_is_wanted() {
        let mut sent = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        to_guest(&mut sent, 1, &came(None), Some(HeaderValue::from_static("websocket")));
        assert_eq!(
            (&sent["connection"], &sent["upgrade"]),
            (&HeaderValue::from_static("upgrade"), &HeaderValue::from_static("websocket"),)
        );
    }

    #[test]
    fn the_client_is_added_to_those_before_it() {
        let mut sent = headers(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2, 10.0.0.3"),
            ("x-forwarded-host", "outer"),
            ("x-forwarded-proto", "https"),
            ("connection", "x-forwarded-for-not"),
            ("host", "inner"),
        ]);
        to_guest(&mut sent, 1, &came(Some("::ffff:192.0.2.7")), None);
        let all: Vec<_> = sent.get_all(FORWARDED_FOR).iter().collect();
        assert_eq!(all, ["10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7"]);
        assert_eq!(
            (&sent[FORWARDED_HOST], &sent[FORWARDED_PROTO]),
            (&HeaderValue::from_static("outer"), &HeaderValue::from_static("https"),)
        );
    }

    #[test]
    fn a_client_cannot_have_its_own_address_taken_out() {
        let mut sent = headers(&[("connection", "x-forwarded-for, host"), ("host", "a")]);
        to_guest(&mut sent, 1, &came(Some("192.0.2.7")), None);
        assert_eq!(sent[FORWARDED_FOR], "192.0.2.7");
        assert_eq!(sent[header::HOST], "localhost:1");
    }

    #[test]
    fn what_anybody_may_have_invented_does_not_pass() {
        let mut sent = headers(&[
            ("host", "web.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        let stranger = Came {
            trusted: false,
            prefix: Some("/web".to_owned()),
            own_host: true,
            ..came(Some("192.0.2.7"))
        };
        to_guest(&mut sent, 1, &stranger, None);
        let expected = headers(&[
            ("host", "web.example"),
            ("cookie", "a=1; b=2"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "web.example"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-prefix", "/web"),
        ]);
        assert_eq!(sent, expected);
        let mut sent = headers(&[("x-forwarded-prefix", "/outer/")]);
        let proxy = Came { trusted: true, secure: true, ..stranger };
        to_guest(&mut sent, 1, &proxy, None);
        assert_eq!(sent[FORWARDED_PREFIX], "/outer/web");
        assert_eq!(sent[FORWARDED_PROTO], "https");
    }
}
