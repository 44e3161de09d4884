//! A daemon with one sandbox, whose agent is the test.

use std::{net::SocketAddr, time::Duration};

use api::ErrorBody;
use axum::{
    Router,
    body::Body,
    http::{Request, Response, request},
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use orchestrator::{
    Orchestrator, Settings,
    model::UserLimits,
    testing::{Agent, registered},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::{
    app::{self, App},
    connections::{self, Listener},
};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that listens on TCP, and a user of it who has a sandbox named `box`.
pub(crate) struct Served {
    pub(crate) app: App,
    pub(crate) router: Router,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) stop: watch::Sender<bool>,
    _dir: TempDir,
}

impl Served {
    pub(crate) async fn new() -> (Self, Agent) {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            data_dir: dir.path().to_owned(),
            lohar: b"",
            defaults: orchestrator::Defaults {
                image: "debian".to_owned(),
                memory_mib: 256,
                disk_mib: 1024,
            },
            idle: orchestrator::model::IdlePolicy::default(),
            memory_low_mib: Some(0),
            prestarted: 0,
            network: None,
            backups: orchestrator::backups::BackupSettings::default(),
            images: orchestrator::images::ImageSettings::default(),
        };
        let orchestrator = Orchestrator::open(settings).await.unwrap();
        orchestrator.store().ensure_admin().await.unwrap();
        let made = orchestrator.store().create_user("u", false, UserLimits::default()).await;
        let (user, key) = made.unwrap();
        let agent = registered(&orchestrator, &user.id, "box").await;
        let app = App::new(orchestrator, 1 << 20);
        let router = app::router(app.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(connections::run(Listener::Tcp(listener), router.clone(), stopping));
        (Self { app, router, address, key, stop, _dir: dir }, agent)
    }

    /// A request of the user.
    pub(crate) fn request(&self, method: &str, path: &str) -> request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.key))
    }

    /// A connection for several requests.
    pub(crate) async fn connect(&self) -> SendRequest<Body> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connecting = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (sender, connection) = connecting.await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// Sends a request over a connection of its own.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let mut connection = self.connect().await;
        let sent = timeout(PATIENCE, connection.send_request(request));
        sent.await.unwrap().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Incoming> {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }
}

/// The whole of a body.
pub(crate) async fn whole(response: Response<Incoming>) -> Vec<u8> {
    let body = timeout(PATIENCE, response.into_body().collect()).await.unwrap();
    body.unwrap().to_bytes().to_vec()
}

/// What a failure says; its code has to be that of its status.
pub(crate) async fn failure(response: Response<Incoming>) -> ErrorBody {
    let status = response.status().as_u16();
    let body: ErrorBody = serde_json::from_slice(&whole(response).await).unwrap();
    assert_eq!(status, body.code.http_status(), "{body:?}");
    body
}
