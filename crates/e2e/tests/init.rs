//! What a sandbox is made with and what it runs from the start.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{CreateFile, CreateSandbox, ErrorCode, RestartPolicy, ServerMessage};
use e2e::{Guest, Node, Terminal, create_request, raw, refused, signal};

#[tokio::test]
async fn init_runs_with_files_and_environment_and_can_be_joined() {
    let node = Node::start();
    // Of the client that is attached when it is stopped.
    node.expect_warning("code=agent_unreachable");
    let file = CreateFile {
        guest_path: "/workspace/conf/hello".to_owned(),
        content: "aGVsbG8K".to_owned(),
        mode: Some("0600".to_owned()),
    };
    let request = CreateSandbox {
        env: [("FROM".to_owned(), "create".to_owned())].into(),
        init: Some(
            "cat conf/hello; echo \"$FROM $(id -u)\"; while read x; do echo \"got $x\"; done"
                .to_owned(),
        ),
        files: vec![file],
        ..create_request("dev")
    };
    let mut guest = Guest::create_by(node.admin(), request.clone()).await;
    let sessions = guest.client.sessions(&guest.id).await.unwrap();
    assert_eq!((sessions.len(), sessions[0].session_id.as_str()), (1, "init"));
    let mut init = Terminal::open(&guest, "session=init").await;
    init.until("hello\r\ncreate 1000\r\n").await;
    init.type_in("word\n").await;
    init.until("got word\r\n").await;
    // Asked again, the same sandbox is meant; another init means another sandbox.
    let again = guest.client.create(&request, drop).await.unwrap();
    assert!(again.existing && again.sandbox.id == guest.id);
    let other = CreateSandbox { init: Some("true".to_owned()), ..request };
    assert_eq!(refused(guest.client.create(&other, drop).await).code, ErrorCode::NameTaken);
    // It is no shell to fall into.
    drop(init);
    let shell = Terminal::open(&guest, "").await;
    assert!(shell.created);
    guest.stop().await;
    let mut init = Terminal::open(&guest, "session=init").await;
    init.type_in("more\n").await;
    init.until("got more\r\n").await;
}

#[tokio::test]
async fn init_is_started_again_as_its_policy_says() {
    let node = Node::start();
    let with = |name: &str, init: &str, restart| CreateSandbox {
        init: Some(init.to_owned()),
        init_restart: Some(restart),
        ..create_request(name)
    };
    let failing = "echo x >> /tmp/runs; [ $(wc -l < /tmp/runs) -ge 3 ]";
    let mut guest =
        Guest::create_by(node.admin(), with("a", failing, RestartPolicy::OnFailure)).await;
    guest.sh("until [ $(wc -l < /tmp/runs) = 3 ]; do usleep 1000; done").await;
    let mut init = Terminal::open(&guest, "session=init").await;
    assert_eq!(init.end().await, Some(ServerMessage::Exit { exit_code: 0 }));
    let session = guest.client.sessions(&guest.id).await.unwrap().remove(0);
    assert_eq!((session.running, session.restarts), (false, 2));
    let once = with("b", "echo x >> /tmp/runs; exit 4", RestartPolicy::No);
    let guest = Guest::create_by(node.admin(), once).await;
    let mut init = Terminal::open(&guest, "session=init").await;
    assert_eq!(init.end().await, Some(ServerMessage::Exit { exit_code: 4 }));
    let always = with("c", "echo x >> /tmp/runs", RestartPolicy::Always);
    let mut guest = Guest::create_by(node.admin(), always).await;
    guest.sh("until [ $(wc -l < /tmp/runs) = 3 ]; do usleep 1000; done").await;
    // Killed by its owner it stays down.
    guest.client.session_kill(&guest.id, "init", &signal("KILL")).await.unwrap();
    e2e::until("init is down", async || {
        let sessions = guest.client.sessions(&guest.id).await.unwrap();
        (!sessions[0].running).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_boot_from_disk_runs_init_again() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let init = Some("echo up >> /home/lohar/ups; sync; exec sleep 1000".to_owned());
    let mut guest =
        Guest::create_by(node.admin(), CreateSandbox { init, ..create_request("dev") }).await;
    let ups = "until [ \"$(wc -l < /home/lohar/ups)\" = ";
    guest.sh(&format!("{ups} 1 ]; do usleep 1000; done; sync")).await;
    let pid = rustix::process::Pid::from_raw(node.monitor(&guest.id)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    guest.failed().await;
    guest.start(None).await.unwrap();
    guest.sh(&format!("{ups} 2 ]; do usleep 1000; done")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_any_size_come_with_the_create() {
    let node = Node::start();
    let local = tempfile::tempdir().unwrap();
    let big = local.path().join("big");
    let content: Vec<u8> =
        (0..8_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs_err::write(&big, &content).unwrap();
    let small = local.path().join("small");
    fs_err::write(&small, "small").unwrap();
    let (big, small) = (big.to_str().unwrap(), small.to_str().unwrap());
    let created = node.cli(&[
        "create",
        "--name",
        "dev",
        "--image",
        "busybox",
        "--memory",
        "128",
        "--disk-size",
        "512",
        "--file",
        &format!("{big}:/data/big"),
        "--file",
        &format!("{small}:/etc/small.conf:0600"),
        "--init",
        "sha256sum /data/big > /tmp/sum",
    ]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let mut guest = Guest { client: node.admin(), id: "dev".to_owned() };
    guest.sh("until grep -q big /tmp/sum; do usleep 1000; done").await;
    assert_eq!(guest.sh("cat /tmp/sum").await[..64], base::hash::bytes(&content));
    assert_eq!(guest.root("stat -c %u:%a /etc/small.conf").await, "0:600");
    let missing = node.cli(&["create", "--name", "x", "--file", "/no/such:/f"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(node.admin().sandboxes(&[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_create_whose_files_do_not_all_come_leaves_nothing() {
    let node = Node::start();
    for body in [
        &b"{\"name\":\"half\",\"image\":\"busybox\",\"memory_mb\":128,\"disk_size_mb\":512}\nnot a tar archive"[..],
        b"{\"name\":\"half\",\"image\":\"busybox\",\"memory_mb\":128,\"disk_size_mb\":512,\"files\":[{\"guest_path\":\"/etc\",\"content\":\"\"}]}\n",
    ] {
        let head = [
            format!("content-length: {}", body.len()),
            "content-type: application/vnd.bhatti.create+tar".to_owned(),
        ];
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let answer = raw::unix_body(&node.socket(), "POST", "/sandboxes", &head, body).await;
        assert!(matches!(answer.status, 400 | 409), "{answer:?}");
        assert!(node.admin().sandboxes(&[]).await.unwrap().is_empty());
        assert!(node.monitors().is_empty());
    }
    for files in [
        r#"[{"guest_path":"etc/x","content":""}]"#,
        r#"[{"guest_path":"/x","content":"?"}]"#,
        r#"[{"guest_path":"/x","content":"","mode":"9"}]"#,
    ] {
        let body = format!("{{\"image\":\"busybox\",\"files\":{files}}}");
        let answer = raw::unix(&node.socket(), "POST", "/sandboxes", body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{files}: {answer:?}");
    }
}
