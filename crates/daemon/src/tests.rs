//! The interface as a client meets it, as far as no VM is needed.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use api::{ErrorBody, ErrorCode, Health, User, UserKey, headers};
use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
    routing::get,
};
use http_body_util::BodyExt as _;
use orchestrator::{Orchestrator, Settings, model::UserLimits, store::Store};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::watch,
};
use tower::ServiceExt as _;

use self::sockets::raw;
use crate::{
    Config, SandboxDefaults, ServeError,
    app::{self, App},
    auth::Peer,
    connections::{self, Listener},
    listen::{DataDir, LocalSocket, bind_tcp},
    serve,
    websocket::Upgrade,
};

mod copies;
mod images;
mod sockets;

const JSON_BODY_MAX: usize = 1 << 20;

struct Node {
    _dir: TempDir,
    router: Router,
    store: Store,
    admin_key: String,
    user_key: String,
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let orchestrator = Orchestrator::open(settings(dir.path())).await.unwrap();
        let store = orchestrator.store().clone();
        let admin_key = store.ensure_admin().await.unwrap().unwrap();
        let (_, user_key) = store.create_user("u", false, UserLimits::default()).await.unwrap();
        let router = app::router(App::new(orchestrator, JSON_BODY_MAX));
        Self { _dir: dir, router, store, admin_key, user_key }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request with a key and expects a failure of that code.
    async fn refused(&self, method: Method, path: &str, key: &str, body: &str) -> ErrorBody {
        let response = self.send(request(method, path, key, body.to_owned())).await;
        let status = response.status().as_u16();
        assert!(response.headers().contains_key("x-request-id"));
        let body: ErrorBody = json(response).await;
        assert_eq!(status, body.code.http_status(), "{body:?}");
        body
    }
}

fn settings(data_dir: &Path) -> Settings {
    Settings {
        data_dir: data_dir.to_owned(),
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
    }
}

fn request(method: Method, path: &str, key: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    request.body(body.into()).unwrap()
}

async fn json<T: DeserializeOwned>(response: Response<Body>) -> T {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {bytes:?}"))
}

#[tokio::test]
async fn health_needs_no_key_and_every_answer_is_marked() {
    let node = Node::new().await;
    let response = node.send(request(Method::GET, "/health", "", "")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let version = response.headers()[headers::VERSION].to_str().unwrap().to_owned();
    assert!(response.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
    assert!(response.headers().contains_key(headers::MIN_CLI));
    let health: Health = json(response).await;
    assert_eq!((health.status.as_str(), health.version), ("ok", version));
}

/// Every route that needs a key.
fn guarded() -> Vec<(Method, &'static str)> {
    vec![
        (Method::GET, "/sandboxes"),
        (Method::POST, "/sandboxes"),
        (Method::GET, "/sandboxes/a"),
        (Method::PATCH, "/sandboxes/a"),
        (Method::DELETE, "/sandboxes/a"),
        (Method::POST, "/sandboxes/a/stop"),
        (Method::POST, "/sandboxes/a/start"),
        (Method::POST, "/sandboxes/a/pause"),
        (Method::POST, "/sandboxes/a/resume"),
        (Method::POST, "/sandboxes/a/checkpoint"),
        (Method::POST, "/sandboxes/a/fork"),
        (Method::POST, "/sandboxes/a/exec"),
        (Method::GET, "/sandboxes/a/exec/ws"),
        (Method::GET, "/sandboxes/a/ws"),
        (Method::GET, "/sandboxes/a/jobs"),
        (Method::GET, "/sandboxes/a/jobs/j"),
        (Method::DELETE, "/sandboxes/a/jobs/j"),
        (Method::GET, "/sandboxes/a/jobs/j/output"),
        (Method::POST, "/sandboxes/a/jobs/j/kill"),
        (Method::GET, "/sandboxes/a/sessions"),
        (Method::POST, "/sandboxes/a/sessions/s/kill"),
        (Method::GET, "/sandboxes/a/files?path=/a"),
        (Method::PUT, "/sandboxes/a/files?path=/a"),
        (Method::DELETE, "/sandboxes/a/files?path=/a"),
        (Method::POST, "/sandboxes/a/files/mkdir"),
        (Method::POST, "/sandboxes/a/files/move"),
        (Method::GET, "/sandboxes/a/files/watch?path=/a"),
        (Method::GET, "/sandboxes/a/archive?path=/a"),
        (Method::PUT, "/sandboxes/a/archive?path=/a"),
        (Method::GET, "/sandboxes/a/ports"),
        (Method::GET, "/sandboxes/a/ports/80/tunnel"),
        (Method::GET, "/sandboxes/a/proxy/80"),
        (Method::POST, "/sandboxes/a/proxy/80/"),
        (Method::PATCH, "/sandboxes/a/proxy/x/y//z"),
        (Method::GET, "/ports"),
        (Method::GET, "/publish"),
        (Method::GET, "/sandboxes/a/publish"),
        (Method::POST, "/sandboxes/a/publish"),
        (Method::DELETE, "/sandboxes/a/publish/80"),
        (Method::GET, "/shell-token"),
        (Method::GET, "/sandboxes/a/shell-token"),
        (Method::POST, "/sandboxes/a/shell-token"),
        (Method::DELETE, "/sandboxes/a/shell-token"),
        (Method::DELETE, "/sandboxes/a/shell-token/shr_0"),
        (Method::GET, "/images"),
        (Method::GET, "/snapshots"),
        (Method::GET, "/snapshots/a"),
        (Method::DELETE, "/snapshots/a"),
        (Method::POST, "/snapshots/a/resume"),
        (Method::GET, "/users"),
        (Method::POST, "/users"),
        (Method::PATCH, "/users/a"),
        (Method::DELETE, "/users/a"),
        (Method::POST, "/users/a/rotate-key"),
    ]
}

#[tokio::test]
async fn every_other_route_refuses_callers_without_a_valid_key() {
    let node = Node::new().await;
    for (method, path) in guarded() {
        let keyless = node.refused(method.clone(), path, "", "{}").await;
        assert_eq!(keyless.code, ErrorCode::Unauthorized, "{method} {path}");
        let wrong = node.refused(method.clone(), path, &"bht_0".repeat(8), "{}").await;
        assert_eq!(wrong.code, ErrorCode::InvalidApiKey, "{method} {path}");
    }
    let in_query = format!("/sandboxes?token={}", node.admin_key);
    let in_query = node.refused(Method::GET, &in_query, "", "").await;
    assert_eq!(in_query.code, ErrorCode::Unauthorized);
    let head = request(Method::HEAD, "/sandboxes/a/files?path=/a", "", "");
    assert_eq!(node.send(head).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_local_root_is_the_admin_and_a_key_that_it_sends_decides_alone() {
    let node = Node::new().await;
    let own = rustix::process::geteuid().as_raw();
    for (uid, key, expected) in [
        (0, "", StatusCode::OK),
        (own, "", StatusCode::OK),
        (own + 12345, "", StatusCode::UNAUTHORIZED),
        (own + 12345, node.admin_key.as_str(), StatusCode::OK),
        (0, node.user_key.as_str(), StatusCode::FORBIDDEN),
        (0, "bht_mistyped", StatusCode::UNAUTHORIZED),
    ] {
        let mut request = request(Method::GET, "/users", key, "");
        request.extensions_mut().insert(Peer::Local { uid });
        assert_eq!(node.send(request).await.status(), expected, "{uid} {key}");
    }
    let mut request = request(Method::GET, "/users", "", "");
    request.headers_mut().insert(header::AUTHORIZATION, "Basic cm9vdDo=".parse().unwrap());
    request.extensions_mut().insert(Peer::Local { uid: 0 });
    assert_eq!(node.send(request).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn unknown_routes_methods_and_sandboxes_are_json_errors() {
    let node = Node::new().await;
    for path in ["/", "/nothing", "/sandboxes/a/b/c", "/health/x"] {
        let refused = node.refused(Method::GET, path, &node.user_key, "").await;
        assert_eq!(refused.code, ErrorCode::NotFound, "{path}");
    }
    let refused = node.refused(Method::PATCH, "/health", "", "").await;
    assert_eq!(refused.code, ErrorCode::MethodNotAllowed);
    let response = node.send(request(Method::DELETE, "/sandboxes", "", "")).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(response.headers()[header::ALLOW].to_str().unwrap().contains("POST"));
    for path in ["/sandboxes/none", "/sandboxes/0123456789abcdef", "/sandboxes/..%2f"] {
        let refused = node.refused(Method::GET, path, &node.user_key, "").await;
        assert_eq!(refused.code, ErrorCode::SandboxNotFound, "{path}");
        assert_eq!(refused.request_id, None);
    }
    for path in ["/sandboxes/none/jobs/j", "/sandboxes/none/jobs/j/output", "/sandboxes/none/ws"] {
        let refused = node.refused(Method::GET, path, &node.user_key, "").await;
        assert_eq!(refused.code, ErrorCode::SandboxNotFound, "{path}");
    }
    let refused = node.refused(Method::GET, "/sandboxes/%ff", &node.user_key, "").await;
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    let refused = node.refused(Method::GET, "/sandboxes?label=a", &node.user_key, "").await;
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn bodies_are_limited_and_misspelt_fields_are_named() {
    let node = Node::new().await;
    let node = &node;
    let create = |body: String| async move {
        node.refused(Method::POST, "/sandboxes", &node.user_key, &body).await
    };
    assert_eq!(create("{".to_owned()).await.code, ErrorCode::InvalidJson);
    let misspelt = create(r#"{"memory":1}"#.to_owned()).await;
    assert_eq!(misspelt.code, ErrorCode::UnknownField);
    assert!(misspelt.error.contains("`memory`"));
    let large = create(" ".repeat(JSON_BODY_MAX + 1)).await;
    assert_eq!(large.code, ErrorCode::BodyTooLarge);
}

#[tokio::test]
async fn admins_manage_users_and_nobody_else_does() {
    let node = Node::new().await;
    let refused = node.refused(Method::GET, "/users", &node.user_key, "").await;
    assert_eq!(refused.code, ErrorCode::Forbidden);

    let body = r#"{"name":"new","max_sandboxes":7}"#;
    let response = node.send(request(Method::POST, "/users", &node.admin_key, body)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let made: UserKey = json(response).await;
    assert_eq!((made.user.max_sandboxes, made.user.sandboxes, made.user.admin), (7, 0, false));
    let again = node.refused(Method::POST, "/users", &node.admin_key, body).await;
    assert_eq!(again.code, ErrorCode::UserExists);

    let rotate = request(Method::POST, "/users/new/rotate-key", &node.admin_key, "");
    let rotated: UserKey = json(node.send(rotate).await).await;
    let old = node.refused(Method::GET, "/sandboxes", &made.api_key, "").await;
    assert_eq!(old.code, ErrorCode::InvalidApiKey);
    let listed = node.send(request(Method::GET, "/sandboxes", &rotated.api_key, "")).await;
    assert_eq!(listed.status(), StatusCode::OK);

    let users = node.send(request(Method::GET, "/users", &node.admin_key, "")).await;
    let users: Vec<User> = json(users).await;
    assert_eq!(users.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["admin", "u", "new"]);

    let path = format!("/users/{}", made.user.id);
    let deleted = node.send(request(Method::DELETE, &path, &node.admin_key, "")).await;
    assert_eq!(deleted.status(), StatusCode::OK);
    let gone = node.refused(Method::DELETE, &path, &node.admin_key, "").await;
    assert_eq!(gone.code, ErrorCode::UserNotFound);
    let last = node.refused(Method::DELETE, "/users/admin", &node.admin_key, "").await;
    assert_eq!(last.code, ErrorCode::UserInUse);
    assert!(node.store.user_by_key(&rotated.api_key).is_none());
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_for() {
    async fn panics() {
        panic!("on purpose");
    }
    let router = app::surrounded(Router::new().route("/", get(panics)));
    let response = router.oneshot(request(Method::GET, "/", "", "")).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body: ErrorBody = json(response).await;
    assert_eq!((body.code, body.error.as_str()), (ErrorCode::Internal, "internal error"));
}

#[tokio::test]
async fn a_create_that_makes_no_sense_is_refused_whatever_comes_after_it() {
    let node = Node::new().await;
    let (user, key) = (&node, node.user_key.as_str());
    let create = async |line: &str, kind: &str| -> ErrorBody {
        // An archive that is never at its end.
        let archive = futures_util::stream::pending::<io::Result<Vec<u8>>>();
        let line = futures_util::stream::iter([Ok(format!("{line}\n").into_bytes())]);
        let body = Body::from_stream(futures_util::StreamExt::chain(line, archive));
        let mut request = request(Method::POST, "/sandboxes", key, body);
        request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(20), user.send(request));
        json(answer.await.unwrap()).await
    };
    let kind = headers::CREATE_TAR;
    assert_eq!(create("{", kind).await.code, ErrorCode::InvalidJson);
    assert_eq!(create(r#"{"inti":"a"}"#, kind).await.code, ErrorCode::UnknownField);
    assert_eq!(create(r#"{"init":""}"#, kind).await.code, ErrorCode::InvalidRequest);
    let relative = r#"{"files":[{"guest_path":"a","content":""}]}"#;
    assert_eq!(create(relative, kind).await.code, ErrorCode::PathNotAbsolute);
    // Nothing is prepared on this node, so there can be no sandbox.
    let refused = create("{}", &format!("{kind}; charset=binary")).await;
    assert_ne!(refused.code, ErrorCode::InvalidJson);
    let large = " ".repeat(JSON_BODY_MAX + 1);
    assert_eq!(create(&large, kind).await.code, ErrorCode::BodyTooLarge);
}

#[tokio::test]
async fn a_daemon_serves_refuses_a_second_one_and_ends_at_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: dir.path().to_owned(),
        socket: dir.path().join("api.sock"),
        listen: Some("127.0.0.1:0".parse().unwrap()),
        tls: crate::TlsSource::Off,
        public: None,
        acme: None,
        json_body_max: JSON_BODY_MAX,
        sandbox: SandboxDefaults::default(),
        network: None,
        backups: orchestrator::backups::BackupSettings::default(),
        images: orchestrator::images::ImageSettings::default(),
    };
    let (ready, bound) = tokio::sync::oneshot::channel();
    let first = serve(config.clone(), settings(dir.path()), move |bound| {
        ready.send((bound.listen, bound.new_admin_key.clone())).unwrap();
    });
    let first = tokio::spawn(first);
    let (listen, key_path) = bound.await.unwrap();
    let key_path = key_path.unwrap();
    assert_eq!(fs_err::metadata(&key_path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs_err::read_to_string(&key_path).unwrap();

    let ask = format!(
        "GET /users HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
        key.trim()
    );
    let answer = raw(TcpStream::connect(listen.unwrap()).await.unwrap(), &ask).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let second = serve(config.clone(), settings(dir.path()), |_| {}).await;
    assert!(matches!(second, Err(ServeError::DataDirTaken { .. })));
    assert!(config.socket.exists());

    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
    tokio::time::timeout(Duration::from_secs(10), first).await.unwrap().unwrap().unwrap();
    assert!(!config.socket.exists());
}
