//! Whoever comes by a public address wakes what sleeps by itself and nothing else.

use api::{CreateSandbox, IdleSetting, Status, Thermal};
use e2e::{create_request, until};

use super::*;

/// A sandbox that goes to disk by itself as soon as nobody uses it.
async fn sleepy(node: &Node, name: &str) -> Guest {
    let soon = Some(IdleSetting::After(1));
    let request =
        CreateSandbox { idle_warm_sec: soon, idle_cold_sec: soon, ..create_request(name) };
    Guest::create_by(node.admin(), request).await
}

async fn becomes(guest: &mut Guest, thermal: Thermal) -> u64 {
    until(&format!("it is {thermal:?}"), async || {
        let view = guest.view().await;
        (view.thermal.as_ref() == Some(&thermal)).then_some(view.generation)
    })
    .await
}

#[tokio::test]
async fn hot_warm_and_cold_are_served_alike() {
    let node = start();
    let mut guest = sleepy(&node, "dev").await;
    serve(&mut guest, 8000).await;
    let rule = web(&mut guest, "web", 8000).await;
    assert_eq!(rule.url.unwrap(), format!("http://{}/web/", node.public()));
    assert!(hello(&get(&node, "/web/").await));
    guest.client.pause(&guest.id).await.unwrap();
    assert!(hello(&get(&node, "/web/").await));
    becomes(&mut guest, Thermal::Cold).await;
    assert!(hello(&get(&node, "/web/index.html?x").await));
}

#[tokio::test]
async fn a_hundred_visitors_wake_it_once() {
    let node = start();
    let mut guest = sleepy(&node, "dev").await;
    serve(&mut guest, 8000).await;
    web(&mut guest, "web", 8000).await;
    // What one wake and one sleep take.
    let before = becomes(&mut guest, Thermal::Cold).await;
    assert!(hello(&get(&node, "/web/").await));
    let once = becomes(&mut guest, Thermal::Cold).await - before;
    let address = node.public();
    let visitors =
        (0..100).map(|_| tokio::spawn(async move { raw::tcp(address, "GET", "/web/", &[]).await }));
    for visitor in visitors.collect::<Vec<_>>() {
        let answer = visitor.await.unwrap();
        assert!(hello(&answer), "{answer:?}");
    }
    let after = becomes(&mut guest, Thermal::Cold).await;
    assert_eq!(after - before, 2 * once);
}

#[tokio::test]
async fn what_its_owner_stopped_stays_stopped() {
    let node = start();
    let mut guest = site(&node, "dev", "web").await;
    guest.stop().await;
    for _ in 0..3 {
        let told = get(&node, "/web/").await;
        assert_eq!((told.status, told.error().code), (503, ErrorCode::StoppedByOwner));
    }
    let page = raw::tcp(node.public(), "GET", "/web/", &["accept: text/html"]).await;
    let text = String::from_utf8(page.body).unwrap();
    assert!(page.status == 503 && text.starts_with("<!doctype html>"), "{text}");
    assert!(node.monitors().is_empty(), "it was woken");
    assert_eq!(guest.view().await.status, Status::Stopped);
    guest.start(None).await.unwrap();
    assert!(hello(&get(&node, "/web/").await));
}

#[tokio::test]
async fn a_flood_on_one_does_not_slow_another() {
    let node = start();
    let mut busy = Guest::create(&node, "busy").await;
    // Reads the request and never answers.
    answer_with(&mut busy, 8000, "cat > /dev/null").await;
    web(&mut busy, "busy", 8000).await;
    let _calm = site(&node, "calm", "calm").await;
    let address = node.public();
    let flood: Vec<_> = (0..250)
        .map(|number| {
            // Ten visitors, each of whom asks for much.
            let from = [127, 0, 1, number % 10 + 1].into();
            tokio::spawn(async move { raw::tcp_from(from, address, "GET", "/busy/", &[]).await })
        })
        .collect();
    until("the busy one is full", async || {
        (busy.view().await.activity.unwrap().tunnels >= 150).then_some(())
    })
    .await;
    for _ in 0..10 {
        let answer = tokio::time::timeout(HANGS / 6, get(&node, "/calm/")).await.unwrap();
        assert!(hello(&answer), "{answer:?}");
    }
    // Its owner still comes in.
    assert_eq!(busy.sh("echo here").await, "here");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn one_visitor_does_not_keep_others_out() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    // Never answers who asks for nothing in particular.
    let script = "read -r line; while read -r more; do [ ${#more} -le 1 ] && break; done; \
        case $line in *hello*) printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nhello\\n';; \
        *) cat > /dev/null;; esac";
    answer_with(&mut guest, 8000, script).await;
    web(&mut guest, "web", 8000).await;
    let address = node.public();
    let greedy: Vec<_> = (0..250)
        .map(|_| tokio::spawn(async move { raw::tcp(address, "GET", "/web/", &[]).await }))
        .collect();
    until("it has all that it can get", async || {
        (guest.view().await.activity.unwrap().tunnels >= 64).then_some(())
    })
    .await;
    let other = raw::tcp_from([127, 0, 2, 1].into(), address, "GET", "/web/hello", &[]);
    let answer = tokio::time::timeout(HANGS / 6, other).await.unwrap();
    assert!(hello(&answer), "{answer:?}");
    greedy.iter().for_each(tokio::task::JoinHandle::abort);
}
