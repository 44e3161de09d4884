use std::net::SocketAddr;

use api::{ErrorCode, Publish, PublishRule};
use axum::{
    Json,
    http::{HeaderMap, HeaderName, Request, response},
    routing::any,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orchestrator::testing::{Power, registered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::*;
use crate::{
    config::{PublicConfig, TlsSource},
    connections::{self, Listener},
    testing::{PATIENCE, Served, failure, whole},
};

mod ending;
mod hostile;
mod links;
mod ports;
mod protocols;

/// A port of the host that is the daemon's.
const OWN_PORT: u16 = 8080;

/// A daemon with a public listener in the zone `pub.example`, and a sandbox whose ports are those of
/// the loopback.
struct Site {
    served: Served,
    address: SocketAddr,
    host_ports: Arc<HostPorts>,
    shell: Arc<Shell>,
    power: Power,
    stop: watch::Sender<bool>,
}

fn config() -> PublicConfig {
    PublicConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: TlsSource::Off,
        http_listen: None,
        zone: Some("pub.example".to_owned()),
        origin: None,
        trusted: Vec::new(),
        limits: Limits::default(),
        host_ports: 1024..=u16::MAX,
    }
}

impl Site {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: PublicConfig) -> Self {
        let (served, agent) = Served::new().await;
        let power = agent.power.clone();
        tokio::spawn(agent.serve_tunnels());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (orchestrator, pool) = (&served.app.orchestrator, &served.app.pool);
        let public =
            PublicListener::new(&config, listener, orchestrator, pool, &[OWN_PORT]).unwrap();
        let (address, host_ports) = (public.address, Arc::clone(&public.host_ports));
        let shell = public.shell();
        let (stop, stopping) = watch::channel(false);
        let service = public.service(None);
        tokio::spawn(connections::run(Listener::Tcp(public.listener), service, stopping.clone()));
        tokio::spawn(Arc::clone(&host_ports).follow(stopping));
        Self { served, address, host_ports, shell, power, stop }
    }

    async fn publish(&self, wanted: &Publish) -> PublishRule {
        let request = self.served.request("POST", "/sandboxes/box/publish");
        let body = Body::from(serde_json::to_vec(wanted).unwrap());
        let response = self.served.send(request.body(body).unwrap()).await;
        assert_eq!(response.status(), 201);
        serde_json::from_slice(&whole(response).await).unwrap()
    }

    /// Publishes a port below an alias.
    async fn web(&self, alias: &str, port: u16) {
        let alias = Some(alias.to_owned());
        self.publish(&Publish { port, alias, ..Publish::default() }).await;
    }

    async fn send(&self, request: Request<Body>) -> hyper::Response<Incoming> {
        send_to(self.address, request).await
    }

    async fn get(
        &self,
        alias: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> hyper::Response<Incoming> {
        let host = format!("{alias}.pub.example");
        let request = Request::builder().uri(path).header("host", host);
        let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
        self.send(request.body(Body::empty()).unwrap()).await
    }
}

async fn send_to(address: SocketAddr, request: Request<Body>) -> hyper::Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connecting = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.unwrap();
    tokio::spawn(connection.with_upgrades());
    timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
}

/// A server in the sandbox.
async fn server(router: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// Says what it was asked: the line, and headers with `got-` before their names.
async fn echo(request: axum::extract::Request) -> (HeaderMap, String) {
    let (parts, body) = request.into_parts();
    let mut said = HeaderMap::new();
    for (name, value) in &parts.headers {
        let name: HeaderName = format!("got-{name}").parse().unwrap();
        said.append(name, value.clone());
    }
    let length = body.collect().await.unwrap().to_bytes().len();
    (said, format!("{} {} {length}", parts.method, parts.uri))
}

async fn echoing() -> u16 {
    server(Router::new().fallback(echo)).await
}

async fn text(response: hyper::Response<Incoming>) -> String {
    String::from_utf8(whole(response).await).unwrap()
}

fn got<'a>(head: &'a response::Parts, name: &str) -> Option<&'a str> {
    head.headers.get(format!("got-{name}")).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_request_reaches_the_server_as_it_was_sent() {
    let site = Site::new().await;
    site.web("web", echoing().await).await;
    let sent =
        [("authorization", "Bearer bht_0000"), ("x-forwarded-for", "10.0.0.1"), ("cookie", "a=b")];
    let response = site.get("web", "/a%2Fb//%2e?q=%20&x", &sent).await;
    let (head, body) = response.into_parts();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "GET /a%2Fb//%2e?q=%20&x 0");
    assert_eq!(got(&head, "host"), Some("web.pub.example"));
    assert_eq!(got(&head, "x-forwarded-host"), Some("web.pub.example"));
    assert_eq!(got(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(got(&head, "x-forwarded-prefix"), None);
    assert_eq!(
        (got(&head, "cookie"), got(&head, "authorization")),
        (Some("a=b"), Some("Bearer bht_0000"))
    );
    assert!(!head.headers.contains_key(api::headers::VERSION), "it is no answer of the API");
}

#[tokio::test]
async fn without_a_zone_aliases_are_paths() {
    let site = Site::with(PublicConfig { zone: None, ..config() }).await;
    site.web("web", echoing().await).await;
    let get = async |path: &str| {
        let request = Request::builder().uri(path).header("host", "anything:1");
        site.send(request.body(Body::empty()).unwrap()).await
    };
    let (head, body) = get("/web/a%2F?x").await.into_parts();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "GET /a%2F?x 0");
    assert_eq!(got(&head, "x-forwarded-prefix"), Some("/web"));
    let bare = get("/web?x").await;
    assert_eq!(
        (bare.status(), &bare.headers()["location"]),
        (StatusCode::TEMPORARY_REDIRECT, &HeaderValue::from_static("web/?x"))
    );
    for nothing in ["/", "/other/", "//web/", "/%77eb/"] {
        assert_eq!(get(nothing).await.status(), 404, "{nothing}");
    }
}

#[tokio::test]
async fn nothing_of_the_api_is_there() {
    let site = Site::new().await;
    site.web("web", echoing().await).await;
    let key = format!("Bearer {}", site.served.key);
    for path in ["/health", "/sandboxes", "/sandboxes/box", "/publish", "/users"] {
        for host in ["pub.example", "127.0.0.1", "other.pub.example", "localhost"] {
            let request = Request::builder().uri(path).header("host", host);
            let request =
                request.header("authorization", &key).header("accept", "application/json");
            let refused = failure(site.send(request.body(Body::empty()).unwrap()).await).await;
            assert_eq!(refused.code, ErrorCode::NotPublished, "{host}{path}");
        }
        assert_eq!(text(site.get("web", path, &[]).await).await, format!("GET {path} 0"));
    }
}

#[tokio::test]
async fn whoever_cannot_be_served_is_told_so() {
    let site = Site::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    site.web("closed", closed).await;
    let page = site.get("closed", "/", &[("accept", "text/html")]).await;
    assert_eq!(page.status(), 502);
    assert!(!text(page).await.contains(&closed.to_string()));
    let json = [("accept", "application/json")];
    let told = failure(site.get("closed", "/", &json).await).await;
    assert_eq!(told.code, ErrorCode::PortClosed);
    assert_eq!(failure(site.get("none", "/", &json).await).await.code, ErrorCode::NotPublished);
    let allow_cidr = vec!["192.0.2.0/24".to_owned()];
    let alias = Some("far".to_owned());
    site.publish(&Publish { port: 1, alias, allow_cidr, ..Publish::default() }).await;
    assert_eq!(failure(site.get("far", "/", &json).await).await.code, ErrorCode::Forbidden);
    // Withdrawn is as if it had never been.
    let gone = site.served.request("DELETE", &format!("/sandboxes/box/publish/{closed}"));
    let gone = site.served.send(gone.body(Body::empty()).unwrap()).await;
    assert_eq!(gone.status(), 204);
    assert_eq!(failure(site.get("closed", "/", &json).await).await.code, ErrorCode::NotPublished);
}

#[tokio::test]
async fn a_guard_keeps_its_secret_from_the_server() {
    let site = Site::new().await;
    let port = echoing().await;
    let alias = Some("token".to_owned());
    let auth = Some(api::PublishAuth::Token);
    let rule = site.publish(&Publish { port, alias, auth, ..Publish::default() }).await;
    let token = rule.secret.unwrap();
    assert_eq!(site.get("token", "/", &[]).await.status(), 401);
    let bearer = format!("Bearer {token}");
    let (head, _) = site.get("token", "/", &[("authorization", &bearer)]).await.into_parts();
    assert_eq!((head.status.as_u16(), got(&head, "authorization")), (200, None));
    assert_eq!(head.headers["cache-control"], "private");
    let link = site.get("token", &format!("/x?bhatti-token={token}"), &[]).await;
    assert_eq!(
        (link.status().as_u16(), &link.headers()["location"]),
        (303, &HeaderValue::from_static("/x"))
    );
    let cookie =
        link.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (head, _) = site.get("token", "/", &[("cookie", &cookie)]).await.into_parts();
    assert_eq!((head.status.as_u16(), got(&head, "cookie")), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_come_at_once_and_wake_it_once() {
    let site = Arc::new(Site::new().await);
    site.web("web", echoing().await).await;
    site.power.sleep();
    let all: Vec<_> = (0..300)
        .map(|_| {
            let site = Arc::clone(&site);
            tokio::spawn(async move { site.get("web", "/", &[]).await.status().as_u16() })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn who_comes_too_often_waits_and_others_do_not() {
    let limits = Limits { alias: Rate { per_min: 60, burst: 5 }, ..Limits::default() };
    let site = Site::with(PublicConfig { limits, ..config() }).await;
    let port = echoing().await;
    site.web("busy", port).await;
    registered(&site.served.app.orchestrator, &owner(&site), "two").await;
    let other = site.served.request("POST", "/sandboxes/two/publish");
    let wanted = serde_json::json!({ "port": port, "alias": "calm" });
    let made = site.served.send(other.body(Body::from(wanted.to_string())).unwrap()).await;
    assert_eq!(made.status(), 201);
    for _ in 0..5 {
        assert_eq!(site.get("busy", "/", &[]).await.status(), 200);
    }
    let refused = site.get("busy", "/", &[("accept", "application/json")]).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(failure(refused).await.code, ErrorCode::RateLimited);
    // The other one has nobody who answers, but it is not this that keeps them out.
    let (publication, _) = site.served.app.orchestrator.by_alias("calm").unwrap();
    assert_eq!(publication.port, port);
}

fn owner(site: &Site) -> base::ids::UserId {
    site.served.app.store.user_by_key(&site.served.key).unwrap().id
}

#[tokio::test]
async fn whoever_has_no_key_uses_up_nothing_of_those_who_have() {
    let limits = Limits { alias: Rate { per_min: 60, burst: 5 }, ..Limits::default() };
    let site = Site::with(PublicConfig { limits, ..config() }).await;
    let auth = Some(api::PublishAuth::Token);
    let (port, alias) = (echoing().await, Some("web".to_owned()));
    let rule = site.publish(&Publish { port, alias, auth, ..Publish::default() }).await;
    for _ in 0..20 {
        assert_eq!(site.get("web", "/", &[]).await.status(), 401);
    }
    let bearer = format!("Bearer {}", rule.secret.unwrap());
    let allowed = site.get("web", "/", &[("authorization", &bearer)]).await;
    assert_eq!(allowed.status(), 200);
}

#[tokio::test]
async fn a_request_from_nowhere_is_none() {
    let site = Site::new().await;
    site.web("web", echoing().await).await;
    let (orchestrator, pool) = (&site.served.app.orchestrator, &site.served.app.pool);
    let place = config().site(site.address);
    let rest = (Limits::default(), Vec::new());
    let public = Public::new(orchestrator.clone(), pool.clone(), place, rest);
    let request = Request::builder().uri("/").header("host", "web.pub.example");
    let (parts, body) = request.body(Body::empty()).unwrap().into_parts();
    let trouble = public.answer(parts, body).await.unwrap_err();
    assert_eq!(*trouble.code(), ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn only_trusted_proxies_are_believed() {
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let site = Site::with(PublicConfig { trusted, ..config() }).await;
    site.web("web", echoing().await).await;
    let sent = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")];
    let (head, _) = site.get("web", "/", &sent).await.into_parts();
    assert_eq!(got(&head, "x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(got(&head, "x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn a_server_s_own_headers_and_streams_pass() {
    let site = Site::new().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let stream = Router::new().route(
        "/events",
        any(async move || {
            let receiver = receiver.lock().unwrap().take().unwrap();
            let events = futures_util::stream::unfold(receiver, async |mut receiver| {
                receiver.recv().await.map(|event| (event, receiver))
            });
            ([("content-type", "text/event-stream")], Body::from_stream(events))
        }),
    );
    let stream = stream.route("/json", any(async || Json(7)));
    site.web("web", server(stream).await).await;
    assert_eq!(text(site.get("web", "/json", &[]).await).await, "7");
    let response = site.get("web", "/events", &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        sender.send(Ok(event.into())).await.unwrap();
        let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    // A visitor who leaves is missed.
    drop(body);
    timeout(PATIENCE, sender.closed()).await.unwrap();
}
