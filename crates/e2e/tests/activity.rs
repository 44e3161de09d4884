//! What counts as activity, and that no kind of it starves another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{Activity, ErrorCode, ExecRequest, StreamEvent, client::FilePart};
use e2e::{Guest, Node, Terminal, refused, sh, until};

/// What is going on; nothing is known while the VM is being taken up.
async fn activity(guest: &mut Guest) -> Option<Activity> {
    guest.view().await.activity
}

/// Waits until the activity is as expected, whatever its idle time.
async fn becomes(guest: &mut Guest, expected: Activity) {
    until(&format!("the activity is {expected:?}"), async || {
        let now = activity(guest).await?;
        (Activity { idle_sec: 0, ..now } == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn all_that_somebody_waits_for_counts_and_looking_does_not() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut other = guest.by(node.admin());
    let none = Activity::default();
    becomes(&mut guest, none.clone()).await;
    let events = other.client.exec_stream(&other.id, &sh("sleep 1000")).await.unwrap();
    becomes(&mut guest, Activity { running: 1, ..none.clone() }).await;
    drop(events);
    becomes(&mut guest, none.clone()).await;
    let shell = Terminal::open(&guest, "").await;
    becomes(&mut guest, Activity { attached: 1, ..none.clone() }).await;
    drop(shell);
    becomes(&mut guest, none.clone()).await;
    guest
        .root(
            "nc -ll -p 9000 -e cat > /dev/null 2>&1 & \
                until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':2328 .* 0A'; do usleep 1000; done",
        )
        .await;
    let tunnel = guest.client.tunnel(&guest.id, 9000).await.unwrap();
    becomes(&mut guest, Activity { tunnels: 1, ..none.clone() }).await;
    drop(tunnel);
    becomes(&mut guest, none.clone()).await;
    let mut watching = guest.by(node.admin());
    let events = watching.client.watch(&watching.id, "/tmp", false).await.unwrap();
    becomes(&mut guest, Activity { files: 1, ..none.clone() }).await;
    drop(events);
    becomes(&mut guest, none.clone()).await;
}

#[tokio::test]
async fn a_job_counts_if_it_was_asked_to_even_after_sleep_and_the_daemon_s_death() {
    let mut node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.detach(&sh("sleep 1000")).await;
    let none = Activity::default();
    becomes(&mut guest, none.clone()).await;
    let waiting =
        ExecRequest { keep_awake: true, ..sh("until [ -e /tmp/go ]; do usleep 1000; done") };
    guest.detach(&waiting).await;
    let one = Activity { jobs: 1, ..none.clone() };
    becomes(&mut guest, one.clone()).await;
    guest.stop().await;
    guest.start(None).await.unwrap();
    becomes(&mut guest, one.clone()).await;
    node.kill9();
    node.restart();
    guest.client = node.admin();
    becomes(&mut guest, one).await;
    guest.sh("touch /tmp/go").await;
    becomes(&mut guest, none).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_gets_through_while_a_thousand_commands_run() {
    let node = Node::start();
    let request = api::CreateSandbox { memory_mb: Some(512), ..e2e::create_request("dev") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    guest.sh("mkfifo /tmp/wait; cd /; (exec 3<>/tmp/wait; until [ -e /tmp/go ]; do usleep 10000; done) >/dev/null 2>&1 &").await;
    let mut running = Vec::new();
    let (started, mut all_started) = tokio::sync::mpsc::channel(1000);
    for _ in 0..1000 {
        let (mut client, id, started) = (node.admin(), guest.id.clone(), started.clone());
        running.push(tokio::spawn(async move {
            let mut request = sh("");
            request.cmd = vec!["cat".to_owned(), "/tmp/wait".to_owned()];
            request.timeout_sec = Some(600);
            let mut events = client.exec_stream(&id, &request).await?;
            let first = events.next().await?;
            assert!(matches!(first, Some(StreamEvent::Started { .. })), "{first:?}");
            started.send(()).await.unwrap();
            let mut last = None;
            while let Some(event) = events.next().await? {
                last = Some(event);
            }
            Ok::<_, api::client::ClientError>(last)
        }));
    }
    for _ in 0..1000 {
        all_started.recv().await.unwrap();
    }
    assert_eq!(activity(&mut guest).await.unwrap().running, 1000);
    // One kind is full; every other goes on as if nothing were.
    assert_eq!(refused(guest.exec(&sh("true")).await).code, ErrorCode::SandboxBusy);
    assert!(guest.client.jobs(&guest.id).await.unwrap().is_empty());
    assert!(guest.client.sessions(&guest.id).await.unwrap().is_empty());
    assert!(guest.client.ports(&guest.id).await.unwrap().is_empty());
    guest.write("/tmp/file", b"content".to_vec()).await.unwrap();
    assert_eq!(guest.read("/tmp/file", FilePart::default()).await.unwrap(), b"content");
    let mut shell = Terminal::open(&guest, "").await;
    shell.type_in("echo sh''ell\n").await;
    shell.until("shell\r\n").await;
    let job = guest.detach(&sh("touch /tmp/go")).await;
    assert!(guest.client.job(&guest.id, &job).await.is_ok());
    for command in running {
        let last = command.await.unwrap().unwrap();
        assert_eq!(last, Some(StreamEvent::Exit { exit_code: 0, timed_out: false }));
    }
    assert_eq!(guest.sh("echo here").await, "here");
}
