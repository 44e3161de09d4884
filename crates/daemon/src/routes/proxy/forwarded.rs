//! Headers on their way through.

use std::net::IpAddr;

use api::headers::TOKEN;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that mean one connection only, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Makes the headers of a request those that the server in the sandbox gets. The key is gone
/// already, by [`crate::auth`].
pub(super) fn to_guest(
    headers: &mut HeaderMap,
    port: u16,
    client: Option<IpAddr>,
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
    say_where_from(headers, client);
    if let Ok(host) = HeaderValue::from_str(&format!("localhost:{port}")) {
        headers.insert(header::HOST, host);
    }
}

/// Makes the headers of an answer those that the client gets.
pub(super) fn from_guest(headers: &mut HeaderMap) {
    strip(headers);
}

fn say_where_from(headers: &mut HeaderMap, client: Option<IpAddr>) {
    if let Some(client) = client {
        let earlier = headers.get_all(&FORWARDED_FOR).iter();
        let mut hops: Vec<String> =
            earlier.map(|hop| String::from_utf8_lossy(hop.as_bytes()).into_owned()).collect();
        hops.push(client.to_canonical().to_string());
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
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
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

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
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
        to_guest(&mut sent, 3000, None, None);
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
        to_guest(&mut sent, 1, None, Some(HeaderValue::from_static("websocket")));
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
        to_guest(&mut sent, 1, Some("::ffff:192.0.2.7".parse().unwrap()), None);
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
        to_guest(&mut sent, 1, Some("192.0.2.7".parse().unwrap()), None);
        assert_eq!(sent[FORWARDED_FOR], "192.0.2.7");
        assert_eq!(sent[header::HOST], "localhost:1");
    }
}
