//! Links to terminals on the public listener.

use orchestrator::{model::UserLimits, shares::ShareRequest};

use super::*;

async fn get(site: &Site, host: &str, path: &str) -> hyper::Response<Incoming> {
    let request = Request::builder().uri(path).header("host", host);
    site.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn only_the_zone_itself_has_links_and_aliases_keep_all_their_paths() {
    let site = Site::new().await;
    site.web("web", echoing().await).await;
    for host in ["pub.example", "PUB.example.:8443"] {
        let page = get(&site, host, "/_shell/shr_000000000000").await;
        assert_eq!(page.status(), 200, "{host}");
        assert!(!page.headers().contains_key(api::headers::VERSION));
        assert!(text(page).await.contains("terminal.js"));
    }
    let path = "/_shell/shr_000000000000";
    assert_eq!(text(get(&site, "web.pub.example", path).await).await, format!("GET {path} 0"));
    for (host, path) in [
        ("pub.example", "/_shell"),
        ("pub.example", "/_shell/"),
        ("pub.example", "/_shellx/a"),
        ("pub.example", "/_shell/a/b/c"),
        ("other.example", path),
    ] {
        assert_eq!(get(&site, host, path).await.status(), 404, "{host} {path}");
    }
}

#[tokio::test]
async fn a_link_leads_to_what_visitors_see_of_the_listener() {
    let origin = Some(Origin { secure: true, host: "pub.example".into(), port: 443 });
    let site = Site::with(PublicConfig { origin, ..config() }).await;
    let store = &site.served.app.store;
    let made = store.create_user("v", false, UserLimits::default()).await;
    let owner = made.unwrap().0.id;
    let _agent = registered(&site.served.app.orchestrator, &owner, "dev").await;
    let sandbox = site.served.app.orchestrator.find(&owner, "dev").unwrap();
    let shared = site.served.app.orchestrator.share(&sandbox, ShareRequest::default()).await;
    let id = shared.unwrap().share.id.clone();
    let url = site.shell.url(id.as_str()).unwrap();
    assert_eq!(url, format!("https://pub.example/_shell/{id}"));
    // Behind a proxy that ends TLS and asks for us by another name, too.
    let path = format!("/_shell/{id}/ws");
    for (host, origin, status) in [
        ("pub.example", "https://pub.example", 101),
        ("pub.example", "http://pub.example", 101),
        ("pub.example", "https://web.pub.example", 403),
        ("pub.example", "https://evil.example", 403),
    ] {
        let request = Request::builder()
            .uri(&path)
            .header("host", host)
            .header("origin", origin)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let response = site.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), status, "{origin}");
    }
}

#[tokio::test]
async fn a_sandbox_below_a_path_gets_no_worker_for_all_paths() {
    let site = Site::with(PublicConfig { zone: None, ..config() }).await;
    let worker = async || ([("service-worker-allowed", "/")], "worker");
    let port = server(Router::new().fallback(worker)).await;
    site.web("web", port).await;
    let answer = get(&site, "anything", "/web/worker.js").await;
    assert!(answer.status() == 200 && !answer.headers().contains_key("service-worker-allowed"));
    assert_eq!(get(&site, "anything", "/_shell/shr_000000000000").await.status(), 200);
    // In a zone each alias is an origin of its own, and may do there what it likes.
    let site = Site::new().await;
    site.web("web", port).await;
    let answer = site.get("web", "/worker.js", &[]).await;
    assert!(answer.headers().contains_key("service-worker-allowed"));
}

#[tokio::test]
async fn links_count_among_all_that_a_client_asks_for() {
    let few = Rate { per_min: 60, burst: 2 };
    let limits = Limits { client: few, ..Limits::default() };
    let site = Site::with(PublicConfig { limits, ..config() }).await;
    let statuses = [200, 200, 429];
    for status in statuses {
        assert_eq!(get(&site, "pub.example", "/_shell/x").await.status(), status);
    }
}
