//! Who may do what.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{CreateUser, ErrorCode};
use e2e::{Guest, Node, create_request, raw, refused, sh};

fn user(name: &str) -> CreateUser {
    CreateUser { name: name.to_owned(), ..CreateUser::default() }
}

#[tokio::test]
async fn a_sandbox_of_somebody_else_looks_like_none_at_all() {
    let node = Node::start();
    let (ann, bob) = (node.user(user("ann")).await, node.user(user("bob")).await);
    let mut anns = Guest::create_by(node.client(&ann), create_request("dev")).await;
    let mut bobs = Guest::create_by(node.client(&bob), create_request("dev")).await;
    assert_ne!(anns.id, bobs.id);
    anns.sh("echo ann > /tmp/whose").await;
    bobs.sh("echo bob > /tmp/whose").await;
    assert_eq!(node.client(&ann).exec("dev", &sh("cat /tmp/whose")).await.unwrap().stdout, "ann\n");
    assert_eq!(node.client(&bob).sandboxes(&[]).await.unwrap().len(), 1);
    assert!(node.admin().sandboxes(&[]).await.unwrap().is_empty(), "not even the admin's list");

    let id = &anns.id;
    let nowhere = "0123456789abcdef";
    for (method, path, body) in [
        ("GET", "", ""),
        ("DELETE", "", ""),
        ("POST", "/stop", ""),
        ("POST", "/start", ""),
        ("POST", "/pause", ""),
        ("POST", "/resume", ""),
        ("POST", "/exec", "{\"cmd\":[\"true\"]}"),
        ("GET", "/files?path=/etc/passwd", ""),
        ("PUT", "/files?path=/tmp/f", "x"),
    ] {
        let ask = async |id: &str| {
            let headers =
                [format!("authorization: Bearer {bob}"), format!("content-length: {}", body.len())];
            let path = format!("/sandboxes/{id}{path}");
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = raw::with_headers(node.tcp(), method, &path, &headers, body).await;
            (answer.status, String::from_utf8(answer.body).unwrap().replace(id, "ID"))
        };
        let (foreign, missing) = (ask(id).await, ask(nowhere).await);
        assert_eq!(foreign.0, 404, "{method} {path}");
        assert_eq!(foreign, missing, "{method} {path}");
    }
    assert_eq!(anns.sh("cat /tmp/whose").await, "ann");
}

#[tokio::test]
async fn a_request_needs_a_key_that_is_known_except_for_health() {
    let node = Node::start();
    let none = raw::tcp(node.tcp(), "GET", "/sandboxes", &[]).await;
    assert_eq!((none.status, none.error().code), (401, ErrorCode::Unauthorized));
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    assert!(none.error().hint.is_some());
    for value in ["Bearer bht_wrong", "Bearer ", "Basic YTpi", "bht_wrong", "Bearer \u{e9}"] {
        let header = format!("authorization: {value}");
        let wrong = raw::tcp(node.tcp(), "GET", "/sandboxes", &[&header]).await;
        assert_eq!((wrong.status, wrong.error().code), (401, ErrorCode::InvalidApiKey), "{value}");
    }
    for (method, path) in
        [("POST", "/sandboxes"), ("GET", "/images"), ("GET", "/users"), ("GET", "/sandboxes/x")]
    {
        let answer = raw::tcp(node.tcp(), method, path, &[]).await;
        assert_eq!(answer.status, 401, "{method} {path}");
    }
    // Root on the socket is the admin, but not with a key that is wrong.
    assert!(node.admin().users().await.is_ok());
    let mistyped = refused(node.client("bht_wrong").users().await);
    assert_eq!(mistyped.code, ErrorCode::InvalidApiKey);
    let health = node.tcp_client(None).health().await.unwrap();
    assert_eq!((health.status.as_str(), health.engine.as_str()), ("ok", "qemu"));
    let key = std::fs::read_to_string(node.data().join("admin.key")).unwrap();
    assert!(node.tcp_client(Some(key.trim())).users().await.is_ok());
    let mode = std::os::unix::fs::PermissionsExt::mode;
    let meta = std::fs::metadata(node.data().join("admin.key")).unwrap();
    assert_eq!(mode(&meta.permissions()) & 0o777, 0o600);
    assert!(!node.log().iter().any(|line| line.contains(key.trim())), "the key is in the log");
}

#[tokio::test]
async fn users_are_made_changed_and_removed_by_admins_only() {
    let node = Node::start();
    let mut admin = node.admin();
    let made = admin.create_user(&user("ann")).await.unwrap();
    node.remember(&made.api_key);
    assert!(made.api_key.starts_with("bht_") && made.user.id.starts_with("usr_"));
    assert!(!made.user.admin);
    assert_eq!(refused(admin.create_user(&user("ann")).await).code, ErrorCode::UserExists);
    assert_eq!(refused(admin.create_user(&user("../x")).await).code, ErrorCode::InvalidName);

    let mut ann = node.client(&made.api_key);
    assert_eq!(refused(ann.users().await).code, ErrorCode::Forbidden);
    assert_eq!(refused(ann.create_user(&user("eve")).await).code, ErrorCode::Forbidden);
    assert_eq!(refused(ann.rotate_key("admin").await).code, ErrorCode::Forbidden);
    assert_eq!(refused(ann.delete_user("admin").await).code, ErrorCode::Forbidden);

    let guest = Guest::create_by(node.client(&made.api_key), create_request("dev")).await;
    let in_use = refused(admin.delete_user("ann").await);
    assert_eq!(in_use.code, ErrorCode::UserInUse);
    assert!(in_use.hint.is_some());

    let rotated = admin.rotate_key("ann").await.unwrap();
    node.remember(&rotated.api_key);
    assert_eq!(rotated.user.sandboxes, 1);
    assert_eq!(refused(ann.sandboxes(&[]).await).code, ErrorCode::InvalidApiKey, "the old key");
    let mut ann = node.client(&rotated.api_key);
    assert_eq!(ann.sandboxes(&[]).await.unwrap()[0].id, guest.id);
    ann.destroy("dev").await.unwrap();
    let deleted = admin.delete_user(&made.user.id).await.unwrap();
    assert_eq!((deleted.status.as_str(), deleted.name.as_str()), ("deleted", "ann"));
    assert_eq!(refused(ann.sandboxes(&[]).await).code, ErrorCode::InvalidApiKey);
    assert_eq!(refused(admin.delete_user("ann").await).code, ErrorCode::UserNotFound);
    assert_eq!(refused(admin.delete_user("admin").await).code, ErrorCode::UserInUse);
}

#[tokio::test]
async fn a_user_gets_no_more_than_allowed() {
    let node = Node::start();
    let limited = CreateUser {
        max_sandboxes: Some(2),
        max_cpus_per_sandbox: Some(1),
        max_memory_mb_per_sandbox: Some(128),
        ..user("ann")
    };
    let key = node.user(limited).await;
    let mut ann = node.client(&key);
    let big = api::CreateSandbox { memory_mb: Some(129), ..create_request("big") };
    assert_eq!(refused(ann.create(&big, drop).await).code, ErrorCode::QuotaMemory);
    let fast = api::CreateSandbox { cpus: Some(2), ..create_request("fast") };
    assert_eq!(refused(ann.create(&fast, drop).await).code, ErrorCode::QuotaCpus);
    let default = api::CreateSandbox { memory_mb: None, ..create_request("default") };
    assert_eq!(refused(ann.create(&default, drop).await).code, ErrorCode::QuotaMemory);

    // At once, so that a check before the act would let too many through.
    let creates = (0..6).map(|number| {
        let mut client = node.client(&key);
        tokio::spawn(
            async move { client.create(&create_request(&format!("dev-{number}")), drop).await },
        )
    });
    let mut made = 0;
    for create in creates.collect::<Vec<_>>() {
        match create.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.api_code(), Some(&ErrorCode::QuotaSandboxes)),
        }
    }
    assert_eq!((made, node.monitors().len()), (2, 2));
    let mine = ann.sandboxes(&[]).await.unwrap();
    let again = ann.create(&create_request(&mine[0].name), drop).await.unwrap();
    assert!(again.existing, "what is there is found at the limit too");
    ann.stop(&mine[0].id, drop).await.unwrap();
    let full = refused(ann.create(&create_request("more"), drop).await);
    assert_eq!(full.code, ErrorCode::QuotaSandboxes, "stopped ones count");
    assert!(full.hint.is_some());
    ann.destroy(&mine[0].id).await.unwrap();
    ann.create(&create_request("more"), drop).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_manages_users_without_any_configuration() {
    let node = Node::start();
    let run = |args: &[&str]| {
        let output = node.cli(args);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, said) = run(&["user", "create", "--name", "ann", "--max-sandboxes", "1"]);
    assert_eq!(code, Some(0), "{said}");
    let key = said.split_whitespace().find(|word| word.starts_with("bht_")).unwrap();
    node.remember(key);
    assert!(run(&["user", "list"]).1.contains("ann"));
    let (code, said) = run(&["--token", key, "list"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["--token", key, "user", "list"]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("error: "), "{said}");
    assert_eq!(run(&["user", "rotate-key", "ann"]).0, Some(0));
    assert_eq!(run(&["--token", key, "list"]).0, Some(1));
    assert_eq!(run(&["user", "delete", "-y", "ann"]).0, Some(0));
}
