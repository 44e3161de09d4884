use axum::http::Request;
use proptest::prelude::*;

use super::*;

fn site(zone: Option<&str>) -> Site {
    let host = zone.unwrap_or("box.example").to_owned();
    let origin = Origin { secure: true, host, port: 443 };
    Site { zone: zone.map(str::to_owned), origin }
}

fn parts(uri: &str, hosts: &[&str]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for host in hosts {
        request = request.header("host", *host);
    }
    request.body(()).unwrap().into_parts().0
}

fn status(outcome: Result<Route, Trouble>) -> u16 {
    outcome.map_or_else(|trouble| trouble.code().http_status(), |_| 200)
}

#[test]
fn aliases_are_hosts_in_the_zone() {
    let site = site(Some("pub.example"));
    let route = |uri, hosts: &[&str]| site.route(&mut parts(uri, hosts), None);
    let found = route("/a%2Fb//?q=%20", &["Web.PUB.example:8443"]).unwrap();
    assert_eq!((found.alias.as_str(), found.prefix), ("web", None));
    assert_eq!(found.uri, "/a%2Fb//?q=%20");
    assert_eq!(route("/", &["web.pub.example."]).unwrap().alias, "web");
    assert_eq!(route("/", &["a.b.pub.example"]).unwrap().alias, "a.b");
    for elsewhere in ["pub.example", "webpub.example", "example", "127.0.0.1", "[::1]:1"] {
        assert_eq!(status(route("/", &[elsewhere])), 404, "{elsewhere}");
    }
}

#[test]
fn a_request_is_for_one_host() {
    let site = site(Some("pub.example"));
    let route = |uri, hosts: &[&str]| status(site.route(&mut parts(uri, hosts), None));
    assert_eq!(route("http://web.pub.example/x", &["web.pub.example"]), 200);
    assert_eq!(route("http://web.pub.example/x", &[]), 200);
    for (uri, hosts) in [
        ("http://web.pub.example/x", &["other.pub.example"][..]),
        ("/", &["web.pub.example", "web.pub.example"]),
        ("/", &[]),
        ("/", &["u@web.pub.example"]),
        ("/", &["web.pub.example/x"]),
        ("*", &["web.pub.example"]),
        ("web.pub.example:443", &["web.pub.example:443"]),
    ] {
        assert_eq!(route(uri, hosts), 400, "{uri} {hosts:?}");
    }
    let mut absolute = parts("http://web.pub.example:1/x", &[]);
    site.route(&mut absolute, None).unwrap();
    assert_eq!(absolute.headers["host"], "web.pub.example:1");
}

#[test]
fn the_connection_s_name_and_the_request_s_host_are_the_same() {
    let site = site(Some("pub.example"));
    let route = |host: &str, sni| status(site.route(&mut parts("/", &[host]), Some(sni)));
    assert_eq!(route("web.pub.example:443", "WEB.pub.example"), 200);
    assert_eq!(route("other.pub.example", "web.pub.example"), 421);
}

#[test]
fn without_a_zone_the_alias_is_the_path_s_first_part() {
    let site = site(None);
    let route = |uri| site.route(&mut parts(uri, &["anything"]), None).unwrap();
    let found = route("/web/a%2Fb?x");
    assert_eq!((found.alias.as_str(), found.prefix.as_deref()), ("web", Some("/web")));
    assert_eq!((found.uri, found.with_slash), (Uri::from_static("/a%2Fb?x"), None));
    let bare = route("/web?x=1");
    assert_eq!(
        (bare.uri, bare.with_slash.as_deref()),
        (Uri::from_static("/?x=1"), Some("web/?x=1"))
    );
    assert_eq!(route("/").alias, "");
    assert_eq!(route("//web/").alias, "");
}

#[test]
fn urls_are_those_that_visitors_see() {
    let alias = Place::Alias("web".parse().unwrap());
    assert_eq!(site(Some("pub.example")).url(&alias), "https://web.pub.example/");
    let origin = Origin { secure: false, host: "127.0.0.1".to_owned(), port: 8443 };
    let plain = Site { zone: None, origin };
    assert_eq!(plain.url(&alias), "http://127.0.0.1:8443/web/");
    assert_eq!(plain.url(&Place::HostPort(4000)), "tcp://127.0.0.1:4000");
}

#[test]
fn only_proxies_of_ours_say_who_the_client_is() {
    let ours = |address: IpAddr| address.to_string().starts_with("10.");
    let who = |peer: &str, hops: &[&str]| {
        let mut headers = HeaderMap::new();
        for hop in hops {
            headers.append("x-forwarded-for", hop.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, ours).to_string()
    };
    assert_eq!(who("192.0.2.1", &["10.0.0.1"]), "192.0.2.1");
    assert_eq!(who("10.0.0.1", &["192.0.2.9, 192.0.2.1"]), "192.0.2.1");
    assert_eq!(who("::ffff:10.0.0.1", &["192.0.2.9", "192.0.2.1, 10.0.0.2"]), "192.0.2.1");
    assert_eq!(who("10.0.0.1", &["192.0.2.1, unknown"]), "10.0.0.1");
    assert_eq!(who("10.0.0.1", &[]), "10.0.0.1");
}

proptest! {
    #[test]
    fn what_follows_the_alias_is_the_same_byte_by_byte(
        alias in "[a-z0-9-]{1,20}",
        rest in "(/|%[0-9a-fA-F]{2}|[a-zA-Z0-9._~!$&'()*+,;=:@-]){0,40}",
        query in proptest::option::of("(%[0-9a-f]{2}|[a-zA-Z0-9/?=&+:@]){0,20}"),
    ) {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let sent = format!("/{alias}/{rest}{query}");
        let found = site(None).route(&mut parts(&sent, &["h"]), None).unwrap();
        prop_assert_eq!(found.alias, alias);
        prop_assert_eq!(found.uri.to_string(), format!("/{rest}{query}"));
    }
}
