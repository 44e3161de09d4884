//! Requests that make no sense, and what their senders are told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::ErrorCode;
use e2e::{Guest, Node, Options, create_request, raw, refused};

/// A refused create: the body, the code, and whether there is a way out to tell.
const CREATES: &[(&str, &str, bool)] = &[
    ("", "invalid_json", false),
    ("{\"name\":", "invalid_json", false),
    ("[1]", "invalid_json", false),
    ("{\"cpus\":\"two\"}", "invalid_json", false),
    ("{\"cpus\":-1}", "invalid_json", false),
    ("{\"memroy_mb\":128}", "unknown_field", false),
    ("{\"name\":\"../etc\"}", "invalid_name", false),
    ("{\"name\":\"\"}", "invalid_name", false),
    ("{\"name\":\"-x\"}", "invalid_name", false),
    ("{\"name\":\"a b\"}", "invalid_name", false),
    ("{\"image\":\"../busybox\"}", "invalid_name", false),
    ("{\"image\":\"no-such-image\"}", "image_not_found", true),
    ("{\"image\":\"busybox\",\"memory_mb\":0}", "memory_invalid", false),
    ("{\"image\":\"busybox\",\"memory_mb\":95}", "memory_invalid", false),
    ("{\"image\":\"busybox\",\"memory_mb\":1000000000}", "memory_exceeds_host", true),
    ("{\"image\":\"busybox\",\"memory_mb\":18446744073709551615}", "memory_exceeds_host", true),
    ("{\"image\":\"busybox\",\"cpus\":0}", "cpus_invalid", false),
    ("{\"image\":\"busybox\",\"cpus\":65}", "cpus_invalid", false),
    ("{\"image\":\"busybox\",\"disk_size_mb\":1}", "disk_invalid", false),
    ("{\"image\":\"busybox\",\"disk_size_mb\":18446744073709551615}", "disk_invalid", false),
    ("{\"image\":\"busybox\",\"env\":{\"A=B\":\"\"}}", "invalid_request", false),
    ("{\"image\":\"busybox\",\"env\":{\"A\":\"\\u0000\"}}", "invalid_request", false),
    ("{\"image\":\"busybox\",\"labels\":{\"\":\"x\"}}", "invalid_request", false),
];

#[tokio::test]
async fn a_create_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let node = Node::start();
    for (body, code, has_hint) in CREATES {
        let answer = raw::unix(&node.socket(), "POST", "/sandboxes", body.as_bytes()).await;
        let error = answer.error();
        assert_eq!(error.code.as_str(), *code, "{body}: {error:?}");
        assert_eq!(answer.status, error.code.http_status(), "{body}");
        assert!(!error.error.is_empty() && !error.error.ends_with('.'), "{error:?}");
        assert!(!has_hint || error.hint.is_some(), "{body}: {error:?}");
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    let answer = raw::unix(&node.socket(), "POST", "/sandboxes", large.as_bytes()).await;
    assert_eq!((answer.status, answer.error().code), (413, ErrorCode::BodyTooLarge));
    assert!(node.admin().sandboxes(&[]).await.unwrap().is_empty());
    assert!(node.monitors().is_empty() && node.groups().is_empty());
}

#[tokio::test]
async fn a_route_or_method_that_there_is_not_is_refused_in_the_same_form() {
    let node = Node::start();
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("POST", "/sandboxes/x/fly", 404, "not_found"),
        ("DELETE", "/sandboxes", 405, "method_not_allowed"),
        ("PUT", "/sandboxes/x", 405, "method_not_allowed"),
        ("GET", "/sandboxes/x/exec", 405, "method_not_allowed"),
        ("GET", "/sandboxes/no-such-sandbox", 404, "sandbox_not_found"),
        ("GET", "/sandboxes/..%2F..%2Fetc", 404, "sandbox_not_found"),
        ("POST", "/sandboxes/no-such-sandbox/stop", 404, "sandbox_not_found"),
        ("GET", "/sandboxes?label=x", 400, "invalid_request"),
        ("DELETE", "/users/no-such-user", 404, "user_not_found"),
    ] {
        let answer = raw::unix(&node.socket(), method, path, b"").await;
        let error = answer.error();
        assert_eq!((answer.status, error.code.as_str()), (status, code), "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header(api::headers::VERSION).is_some(), "{}", answer.head);
        assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{method} {path}: {}", answer.head);
        }
    }
}

#[tokio::test]
async fn an_exec_that_makes_no_sense_is_refused_and_wakes_nobody() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let stopped = guest.stop().await;
    for (body, code) in [
        ("{\"cmd\":[]}", "command_missing"),
        ("{\"cmd\":[\"\"]}", "command_missing"),
        ("{}", "invalid_json"),
        ("{\"cmd\":\"true\"}", "invalid_json"),
        ("{\"cmd\":[\"true\"],\"timeout\":1}", "unknown_field"),
        ("{\"cmd\":[\"true\"],\"timeout_sec\":0}", "invalid_request"),
        ("{\"cmd\":[\"true\"],\"timeout_sec\":86401}", "invalid_request"),
        ("{\"cmd\":[\"true\"],\"stdin_b64\":\"?\"}", "invalid_request"),
        ("{\"cmd\":[\"a\\u0000b\"]}", "invalid_request"),
        ("{\"cmd\":[\"true\"],\"env\":{\"\":\"x\"}}", "invalid_request"),
    ] {
        let path = "/sandboxes/dev/exec";
        let answer = raw::unix(&node.socket(), "POST", path, body.as_bytes()).await;
        assert_eq!(answer.error().code.as_str(), code, "{body}");
        assert_eq!(answer.status, 400, "{body}");
    }
    let socket = node.socket();
    let from = raw::unix(&socket, "POST", "/sandboxes/dev/start", b"{\"from\":\"tape\"}");
    assert_eq!(from.await.error().code, ErrorCode::InvalidJson);
    assert_eq!(guest.view().await, stopped);
    let huge = format!("{{\"cmd\":[\"true\"],\"stdin_b64\":\"{}\"}}", "A".repeat(13 << 20));
    let answer = raw::unix(&node.socket(), "POST", "/sandboxes/dev/exec", huge.as_bytes()).await;
    assert_eq!((answer.status, answer.error().code), (413, ErrorCode::BodyTooLarge));
}

#[tokio::test]
async fn without_a_kernel_the_daemon_serves_and_says_what_is_missing() {
    let options = Options { kernels: false, recorded_templates: false, ..Options::default() };
    let node = Node::with(&options);
    node.expect_warning("request failed: no guest kernel");
    assert!(node.said("no sandbox can run yet"));
    let mut client = node.admin();
    assert_eq!(client.health().await.unwrap().status, "ok");
    assert!(client.sandboxes(&[]).await.unwrap().is_empty());
    let error = refused(client.create(&create_request("dev"), drop).await);
    assert_eq!(error.code, ErrorCode::NoKernel);
    assert!(error.hint.is_some_and(|hint| hint.contains("bhatti kernel")));
    assert!(client.sandboxes(&[]).await.unwrap().is_empty());
    let told = node.cli(&["create", "--name", "dev", "--image", "busybox"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stderr).contains("hint: "));
}

#[tokio::test]
async fn a_data_directory_has_one_daemon_at_a_time() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let said = node.second_daemon().unwrap_err();
    assert!(said.contains("another daemon") && said.contains(&node.pid().to_string()), "{said}");
    assert_eq!(guest.sh("echo unharmed").await, "unharmed");
}
