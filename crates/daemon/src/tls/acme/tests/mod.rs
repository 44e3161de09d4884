//! Certificates from a real server of the protocol, by every way, over restarts and refusals.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, time::Duration};

use axum::{Router, body::Body, http::Request, routing::any};
use fs_err as fs;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use self::pebble::{How, Pebble};
use super::{
    super::{Authority, Source, Tls, x509},
    *,
};
use crate::{
    connections::{self, HTTP1, Listener, Service},
    public::{Origin, Site, redirect},
};

mod pebble;

/// How long anything may take, with one refusal for no reason.
const PATIENCE: Duration = Duration::from_secs(150);
const YEAR: u64 = 365 * 24 * 3600;

/// An authority, and the ports that it looks at.
struct World {
    pebble: Pebble,
    http: TcpListener,
    tls: TcpListener,
    data: TempDir,
}

/// A daemon as far as certificates are concerned.
struct Node {
    acme: Arc<Acme>,
    stop: watch::Sender<bool>,
    engine: JoinHandle<()>,
    tls: SocketAddr,
    http: SocketAddr,
    roots: Arc<rustls::RootCertStore>,
}

impl World {
    async fn new(how: How) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (http, tls) = (bind().await.unwrap(), bind().await.unwrap());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let pebble = Pebble::start(port(&http), port(&tls), how).await;
        Self { pebble, http, tls, data: tempfile::tempdir().unwrap() }
    }

    fn config(&self, challenge: Challenge) -> AcmeConfig {
        AcmeConfig {
            directory: self.pebble.directory.clone(),
            email: Some("ops@pub.example".to_owned()),
            ca: Some(self.pebble.ca.clone()),
            challenge,
            wanted: Vec::new(),
            on_demand: None,
        }
    }

    /// Starts a daemon; `web` and `missing` are published.
    async fn node(&self, config: &AcmeConfig) -> Node {
        let acme = Acme::open(config, self.data.path()).unwrap();
        let (stop, stopping) = watch::channel(false);
        let published = |alias: &str| ["web", "missing"].contains(&alias);
        let engine = tokio::spawn(Arc::clone(&acme).run(published, stopping.clone()));
        let again = |listener: &TcpListener| {
            let socket = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned().unwrap();
            Listener::Tcp(TcpListener::from_std(socket.into()).unwrap())
        };
        let router = Router::new().fallback(any(async || "here"));
        let tls = Some(Tls::new(Source::Acme(Arc::clone(&acme)), &[HTTP1]).unwrap());
        let service = Service { tls, ..Service::from(router) };
        tokio::spawn(connections::run(again(&self.tls), service, stopping.clone()));
        let origin = Origin { secure: true, host: "pub.example".to_owned(), port: 443 };
        let site = Site { zone: Some("pub.example".to_owned()), origin };
        let plain = redirect::router(site, Some(Arc::clone(&acme)));
        tokio::spawn(connections::run(again(&self.http), plain, stopping));
        let (tls, http) = (self.tls.local_addr().unwrap(), self.http.local_addr().unwrap());
        let roots = Arc::new(self.pebble.roots().await);
        Node { acme, stop, engine, tls, http, roots }
    }
}

impl Node {
    /// What a visitor to a name is shown, if the authority vouches for it.
    async fn visit(&self, name: &str) -> std::io::Result<x509::Facts> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(Arc::clone(&self.roots));
        let connector = TlsConnector::from(Arc::new(builder.with_no_client_auth()));
        let stream = TcpStream::connect(self.tls).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = timeout(PATIENCE, connector.connect(name, stream)).await.unwrap()?;
        let shown: &[CertificateDer<'_>] = stream.get_ref().1.peer_certificates().unwrap();
        let facts = x509::read(&shown[0]).unwrap();
        let connecting = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream));
        let (mut sender, connection) = connecting.await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "x").body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        Ok(facts)
    }

    /// Waits until an order has ended.
    async fn order_ends(&self, ended: &mut watch::Receiver<()>) {
        timeout(PATIENCE, ended.changed()).await.unwrap().unwrap();
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        timeout(PATIENCE, self.engine).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_name_is_proven_over_plain_http_and_nothing_is_ordered_again_after_a_restart() {
    let world = World::new(How { life: YEAR, moody: 5 }).await;
    let wanted = vec![vec!["box.example".to_owned()]];
    let config = AcmeConfig { wanted, ..world.config(Challenge::Http01) };
    let node = world.node(&config).await;
    let first = node.visit("box.example").await.unwrap();
    assert_eq!(first.names, ["box.example"]);
    let state = &node.acme.states()[0];
    assert_eq!((state.not_after, &state.problem), (Some(first.not_after), &None));
    // Beside that, the plain port only says where everything is.
    let stream = TcpStream::connect(node.http).await.unwrap();
    let connecting = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.unwrap();
    tokio::spawn(connection);
    let path = "/.well-known/acme-challenge/none";
    let request = Request::get(path).header("host", "web.pub.example").body(Body::empty());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 308);
    assert_eq!(answer.headers()["location"], format!("https://web.pub.example{path}"));
    node.end().await;
    let orders = world.pebble.orders();
    let node = world.node(&config).await;
    assert_eq!(node.visit("box.example").await.unwrap(), first);
    assert_eq!(world.pebble.orders(), orders);
    let mut files: Vec<_> = fs::read_dir(world.data.path().join("acme")).unwrap().collect();
    let directory = files.pop().unwrap().unwrap().path();
    for file in fs::read_dir(directory).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn the_first_visitor_of_an_alias_waits_for_its_certificate_and_strangers_get_none() {
    let world = World::new(How { life: YEAR, moody: 0 }).await;
    let on_demand = Some("pub.example".to_owned());
    let config = AcmeConfig { on_demand, ..world.config(Challenge::TlsAlpn01) };
    let node = world.node(&config).await;
    for stranger in
        ["other.pub.example", "web.other.example", "a.web.pub.example", "evilpub.example"]
    {
        node.visit(stranger).await.unwrap_err();
    }
    assert_eq!(world.pebble.orders(), 0);
    let (one, two) = tokio::join!(node.visit("web.pub.example"), node.visit("WEB.pub.example"));
    let one = one.unwrap();
    assert_eq!(one, two.unwrap());
    assert_eq!(one.names, ["web.pub.example"]);
    assert_eq!(node.visit("web.pub.example").await.unwrap(), one);
    assert_eq!(world.pebble.orders(), 1);
    assert_eq!(node.acme.states().len(), 1);
    assert_eq!(node.visit("pub.example").await.unwrap().names, ["pub.example"]);
}

#[tokio::test]
async fn a_zone_has_one_certificate_by_records_in_dns_that_are_taken_away() {
    let world = World::new(How { life: YEAR, moody: 0 }).await;
    let wanted = vec![vec!["pub.example".to_owned(), "*.pub.example".to_owned()]];
    let challenge = Challenge::Dns01 { hook: world.pebble.hook() };
    let config = AcmeConfig { wanted, ..world.config(challenge) };
    let node = world.node(&config).await;
    let shown = node.visit("whatever.pub.example").await.unwrap();
    assert_eq!(node.visit("pub.example").await.unwrap(), shown);
    assert_eq!((world.pebble.records().as_str(), world.pebble.orders()), ("", 1));
    node.visit("too.deep.pub.example").await.unwrap_err();
    node.end().await;
    let node = world.node(&config).await;
    assert_eq!(node.visit("any.pub.example").await.unwrap(), shown);
    assert_eq!(world.pebble.orders(), 1);
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let world = World::new(How { life: 18, moody: 0 }).await;
    let wanted = vec![vec!["box.example".to_owned()]];
    let config = AcmeConfig { wanted, ..world.config(Challenge::TlsAlpn01) };
    let node = world.node(&config).await;
    let mut ended = node.acme.ended.subscribe();
    node.order_ends(&mut ended).await;
    let first = node.visit("box.example").await.unwrap();
    node.order_ends(&mut ended).await;
    assert!(clock::unix_seconds() < first.not_after, "there is always one that is good");
    let second = node.visit("box.example").await.unwrap();
    assert!(second.not_after > first.not_after && second.serial != first.serial);
    assert_ne!(second.key, first.key);
}

#[tokio::test]
async fn an_order_that_is_refused_is_told_and_let_be_for_a_while() {
    let world = World::new(How { life: YEAR, moody: 0 }).await;
    let on_demand = Some("pub.example".to_owned());
    let config = AcmeConfig { on_demand, ..world.config(Challenge::Http01) };
    let node = world.node(&config).await;
    node.visit("missing.pub.example").await.unwrap_err();
    let told = |node: &Node| node.acme.states().pop().unwrap();
    let state = told(&node);
    assert_eq!((state.names, state.not_after), (vec!["missing.pub.example".to_owned()], None));
    let why = state.problem.unwrap();
    assert!(why.contains("missing.pub.example was not proven"), "{why}");
    let (next, now) = (state.next_try_at.unwrap(), clock::unix_seconds());
    assert!((now + 30..now + 90).contains(&next), "{next} {now}");
    node.visit("missing.pub.example").await.unwrap_err();
    assert_eq!(world.pebble.orders(), 1);
    node.end().await;
    // Nor does a restart start anew.
    let node = world.node(&config).await;
    node.visit("missing.pub.example").await.unwrap_err();
    assert_eq!((world.pebble.orders(), told(&node).next_try_at), (1, Some(next)));
    node.visit("web.pub.example").await.unwrap();
}

#[tokio::test]
async fn an_authority_that_does_not_answer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let config = AcmeConfig {
        directory: format!("https://127.0.0.1:{port}/dir"),
        email: None,
        ca: None,
        challenge: Challenge::TlsAlpn01,
        wanted: vec![vec!["box.example".to_owned()]],
        on_demand: None,
    };
    let acme = Acme::open(&config, dir.path()).unwrap();
    let mut ended = acme.ended.subscribe();
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(Arc::clone(&acme).run(|_| false, stopping));
    timeout(PATIENCE, ended.changed()).await.unwrap().unwrap();
    let why = acme.states().pop().unwrap().problem.unwrap();
    assert!(why.contains("127.0.0.1 cannot be asked"), "{why}");
    // A visitor is not kept waiting for what will not come soon.
    timeout(PATIENCE, acme.ready("box.example")).await.unwrap();
}

/// An authority that knows nothing but when its certificates are to be renewed.
async fn serve_advice(data: &Path, window: serde_json::Value) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let base = format!("https://{address}");
    let directory = serde_json::json!({
        "newNonce": format!("{base}/none"), "newAccount": format!("{base}/none"),
        "newOrder": format!("{base}/none"), "renewalInfo": format!("{base}/advice"),
    });
    let advice = serde_json::json!({ "suggestedWindow": window });
    let router = Router::new()
        .route("/dir", any(async move || axum::Json(directory)))
        .route("/advice/{id}", any(async move || ([("retry-after", "7200")], axum::Json(advice))));
    let authority = Authority::open(data, None, Some(address.ip())).unwrap();
    let tls = Some(Tls::new(Source::Authority(Box::new(authority)), &[HTTP1]).unwrap());
    let service = Service { tls, ..Service::from(router) };
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(connections::run(Listener::Tcp(listener), service, stopping));
    (format!("{base}/dir"), stop)
}

#[tokio::test]
async fn a_certificate_is_renewed_when_the_authority_says_so() {
    let data = tempfile::tempdir().unwrap();
    let day = |day: &str| format!("{day}T00:00:00Z");
    let past = serde_json::json!({ "start": day("2024-01-01"), "end": day("2024-01-03") });
    let (directory, _served) = serve_advice(data.path(), past).await;
    let config = AcmeConfig {
        directory: directory.clone(),
        email: None,
        ca: Some(crate::certificate_path(data.path())),
        challenge: Challenge::TlsAlpn01,
        wanted: vec![vec!["box.example".to_owned()]],
        on_demand: None,
    };
    let keep = Keep::open(data.path(), &directory).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let secret = {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.encode(key.serialize_der())
    };
    let account = serde_json::json!({ "id": "x", "key_pkcs8": secret, "directory": directory });
    keep.write_account(&serde_json::from_value(account).unwrap()).unwrap();
    let issuer = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let issuer = rcgen::Issuer::new(issuer, &key);
    let mut params = rcgen::CertificateParams::new(["box.example".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    let made = params.signed_by(&key, &issuer).unwrap();
    let chain = super::super::pem::encode("CERTIFICATE", made.der());
    keep.write("box.example", &chain, &key.serialize_der()).unwrap();
    let acme = Acme::open(&config, data.path()).unwrap();
    let mut ended = acme.ended.subscribe();
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(Arc::clone(&acme).run(|_| false, stopping));
    timeout(PATIENCE, ended.changed()).await.unwrap().unwrap();
    // It was tried, and the old one goes on being shown.
    let state = acme.states().pop().unwrap();
    assert!(state.problem.is_some() && state.not_after.is_some());
    let advice = acme.table().advice.renew_at("box.example", &x509::read(made.der()).unwrap());
    assert!((1_704_067_200..=1_704_240_000).contains(&advice.unwrap()));
}
