//! Idle sandboxes fall asleep, and whoever uses them does not notice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use api::{
    CreateSandbox, EditSandbox, ErrorCode, ExecRequest, IdleSetting, IdleTime, Sandbox, Status,
    StreamEvent, Thermal, client::FilePart,
};
use e2e::{Guest, Node, Options, Terminal, create_request, refused, sh, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Whoever waits for so long waits for ever.
const HANGS: Duration = Duration::from_secs(60);

/// A sandbox that goes warm and cold after so many seconds.
fn idle(name: &str, warm: IdleSetting, cold: IdleSetting) -> CreateSandbox {
    CreateSandbox { idle_warm_sec: Some(warm), idle_cold_sec: Some(cold), ..create_request(name) }
}

async fn create(node: &Node, name: &str, warm: IdleSetting, cold: IdleSetting) -> Guest {
    Guest::create_by(node.admin(), idle(name, warm, cold)).await
}

/// Waits until it is so warm. Looking does not count.
async fn becomes(guest: &mut Guest, thermal: Thermal) -> Sandbox {
    until(&format!("{} is {thermal:?}", guest.id), async || {
        let view = guest.view().await;
        (view.thermal.as_ref() == Some(&thermal)).then_some(view)
    })
    .await
}

async fn edit(guest: &mut Guest, request: EditSandbox) -> Sandbox {
    guest.client.edit(&guest.id, &request).await.unwrap()
}

/// A server in the guest that says what it is told, and a file and a process of its own.
const SERVER: &str = "echo kept > /tmp/file; nc -ll -p 9000 -e cat > /dev/null 2>&1 & \
                      until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':2328 .* 0A'; \
                      do usleep 1000; done";

/// Uses the sandbox in one of several ways.
async fn use_it(guest: &mut Guest, way: &str) {
    match way {
        "command" => assert_eq!(guest.sh("cat /tmp/file").await, "kept"),
        "file" => {
            assert_eq!(guest.read("/tmp/file", FilePart::default()).await.unwrap(), b"kept\n");
        }
        "tunnel" => {
            let mut tunnel = guest.client.tunnel(&guest.id, 9000).await.unwrap();
            tunnel.write_all(b"hello").await.unwrap();
            let mut answer = [0; 5];
            tunnel.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"hello");
        }
        "shell" => {
            let mut shell = Terminal::open(guest, "").await;
            shell.type_in("cat /tmp/file\n").await;
            shell.until("kept\r\n").await;
        }
        "job" => drop(guest.detach(&sh("true")).await),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_idle_sandbox_goes_warm_and_then_cold_and_whatever_uses_it_wakes_it() {
    let node = Node::start();
    let mut guest = create(&node, "dev", IdleSetting::After(1), IdleSetting::After(3)).await;
    guest.root(SERVER).await;
    let monitor = node.monitor(&guest.id);
    for way in ["command", "file", "tunnel", "shell", "job"] {
        let warm = becomes(&mut guest, Thermal::Warm).await;
        assert_eq!((warm.status, node.monitor(&guest.id)), (Status::Running, monitor));
        use_it(&mut guest, way).await;
        let hot = guest.view().await;
        assert_eq!(hot.thermal, Some(Thermal::Hot), "{way}");
        assert_eq!(hot.generation, warm.generation + 1, "{way}");
    }
    for way in ["command", "file", "tunnel", "shell", "job"] {
        let cold = becomes(&mut guest, Thermal::Cold).await;
        assert_eq!(cold.status, Status::Running, "it answers, though later");
        assert!(node.monitors().is_empty(), "its memory is not freed");
        use_it(&mut guest, way).await;
        let hot = guest.view().await;
        assert_eq!(hot.thermal, Some(Thermal::Hot), "{way}");
        assert_eq!(hot.generation, cold.generation + 1, "{way}");
    }
}

#[tokio::test]
async fn a_limit_that_is_left_out_is_left_out() {
    let node = Node::start();
    let mut never_warm = create(&node, "a", IdleSetting::Never, IdleSetting::After(2)).await;
    let mut never_cold = create(&node, "b", IdleSetting::After(1), IdleSetting::Never).await;
    let mut default = Guest::create(&node, "c").await;
    let view = default.view().await;
    assert_eq!(view.idle_warm_sec, Some(IdleTime::After(30)));
    assert_eq!(view.idle_cold_sec, Some(IdleTime::After(30 * 60)));
    let began = never_warm.view().await.generation;
    let cold = becomes(&mut never_warm, Thermal::Cold).await;
    assert_eq!(cold.generation, began + 1, "it went there directly");
    assert_eq!(becomes(&mut never_cold, Thermal::Warm).await.generation, began + 1);
    assert_eq!(default.view().await, Sandbox { activity: default.view().await.activity, ..view });
}

#[tokio::test]
async fn what_somebody_waits_for_keeps_it_hot() {
    let node = Node::start();
    let mut guest = create(&node, "dev", IdleSetting::After(2), IdleSetting::After(2)).await;
    let generation = guest.view().await.generation;
    let long = "sleep 4; echo over";
    assert_eq!(guest.sh(long).await, "over");
    assert_eq!(guest.view().await.generation, generation, "a command");

    let mut shell = Terminal::open(&guest, "").await;
    shell.type_in("sleep 4; echo o''ver\n").await;
    shell.until("over\r\n").await;
    assert_eq!(guest.view().await.generation, generation, "a client");
    drop(shell);

    let job = ExecRequest { keep_awake: true, ..sh(long) };
    guest.detach(&job).await;
    until("the job is over", async || {
        let view = guest.view().await;
        assert_eq!(view.generation, generation, "a job");
        (view.activity?.jobs == 0).then_some(())
    })
    .await;
    // Nothing is left that could.
    becomes(&mut guest, Thermal::Cold).await;

    let running = sh("sleep 1000");
    guest.detach(&running).await;
    becomes(&mut guest, Thermal::Cold).await;
}

#[tokio::test]
async fn what_is_kept_hot_stays_hot_and_edits_hold_at_once() {
    let node = Node::start();
    let soon = (IdleSetting::After(1), IdleSetting::After(2));
    let mut other = create(&node, "other", soon.0, soon.1).await;
    let request = CreateSandbox { keep_hot: true, ..idle("dev", soon.0, soon.1) };
    let mut kept = Guest::create_by(node.admin(), request).await;
    let began = kept.view().await;
    assert!(began.keep_hot && began.idle_warm_sec == Some(IdleTime::Never), "{began:?}");
    becomes(&mut other, Thermal::Cold).await;
    assert_eq!(kept.view().await.generation, began.generation);

    // The name can be used by another now; the guest does not care.
    let hostname = kept.sh("hostname").await;
    let request = EditSandbox {
        name: Some("renamed".to_owned()),
        keep_hot: Some(false),
        labels_add: [("team".to_owned(), "a".to_owned())].into(),
        ..EditSandbox::default()
    };
    let edited = edit(&mut kept, request).await;
    assert_eq!((edited.name.as_str(), edited.keep_hot), ("renamed", false));
    assert_eq!(edited.labels.get("team").map(String::as_str), Some("a"));
    becomes(&mut kept, Thermal::Cold).await;
    assert_eq!(node.admin().sandbox("renamed").await.unwrap().id, kept.id);
    assert_eq!(refused(node.admin().sandbox("dev").await).code, ErrorCode::SandboxNotFound);
    let taken = EditSandbox { name: Some("other".to_owned()), ..EditSandbox::default() };
    assert_eq!(refused(kept.client.edit(&kept.id, &taken).await).code, ErrorCode::NameTaken);

    let keep = EditSandbox { keep_hot: Some(true), ..EditSandbox::default() };
    let woken = edit(&mut kept, keep.clone()).await;
    assert_eq!((woken.thermal, woken.keep_hot), (Some(Thermal::Hot), true));
    assert_eq!(kept.sh("hostname").await, hostname);
    let again = edit(&mut kept, keep.clone()).await;
    assert_eq!(again.generation, woken.generation, "nothing has changed");

    // Its owner's word weighs more.
    let stopped = other.stop().await;
    assert_eq!(stopped.status, Status::Stopped);
    let edited = edit(&mut other, keep).await;
    assert_eq!((edited.status, edited.thermal), (Status::Stopped, None));
    let shorter = EditSandbox {
        keep_hot: Some(false),
        idle_warm_sec: Some(IdleSetting::Never),
        idle_cold_sec: Some(IdleSetting::Default),
        ..EditSandbox::default()
    };
    let edited = edit(&mut other, shorter).await;
    assert_eq!(edited.idle_cold_sec, Some(IdleTime::After(30 * 60)));
    assert_eq!(edited.idle_warm_sec, Some(IdleTime::Never));
    other.sh("true").await;
}

#[tokio::test]
async fn who_looks_at_a_sandbox_that_sleeps_sees_what_there_was_and_wakes_nothing() {
    let mut node = Node::start();
    let mut guest = create(&node, "dev", IdleSetting::Never, IdleSetting::Never).await;
    guest.root(SERVER).await;
    let job = guest.detach(&sh("echo said; sleep 1000")).await;
    drop(Terminal::open(&guest, "").await);
    until("the client is gone", async || {
        let sessions = guest.client.sessions(&guest.id).await.unwrap();
        sessions.iter().all(|session| !session.attached).then_some(())
    })
    .await;
    let lists = async |guest: &mut Guest| {
        let sessions = guest.client.sessions(&guest.id).await.unwrap();
        let jobs = guest.client.jobs(&guest.id).await.unwrap();
        let ports = guest.client.ports(&guest.id).await.unwrap();
        assert_eq!(guest.client.job(&guest.id, &job).await.unwrap(), jobs[0]);
        let missing = guest.client.job(&guest.id, "nothing").await;
        assert_eq!(refused(missing).code, ErrorCode::JobNotFound);
        assert!(!guest.client.sandboxes(&[]).await.unwrap().is_empty());
        (sessions, jobs, ports)
    };
    let awake = lists(&mut guest).await;
    assert_eq!((awake.0.len(), awake.1.len()), (1, 1));
    assert!(awake.2.iter().any(|port| port.container_port == 9000));
    let cold = |seconds| EditSandbox {
        idle_cold_sec: Some(IdleSetting::After(seconds)),
        ..EditSandbox::default()
    };
    let warm = EditSandbox { idle_warm_sec: Some(IdleSetting::After(1)), ..EditSandbox::default() };
    edit(&mut guest, warm).await;
    let warm = becomes(&mut guest, Thermal::Warm).await;
    assert_eq!(lists(&mut guest).await, awake);
    // Whoever takes it up later knows as much.
    node.kill9();
    node.restart();
    guest.client = node.admin();
    assert_eq!(lists(&mut guest).await, awake);
    assert_eq!(guest.view().await.generation, warm.generation, "it was woken");

    edit(&mut guest, cold(1)).await;
    let cold = becomes(&mut guest, Thermal::Cold).await;
    assert_eq!(lists(&mut guest).await, awake);
    assert!(node.monitors().is_empty());
    assert_eq!(guest.view().await.generation, cold.generation, "it was woken");
    // What only the guest knows.
    assert_eq!(guest.sh("cat /tmp/file").await, "kept");
    assert_eq!(guest.view().await.generation, cold.generation + 1);
    assert_eq!(lists(&mut guest).await, awake);
    guest.stop().await;
    assert_eq!(lists(&mut guest).await, awake);
    assert!(node.monitors().is_empty());
}

#[tokio::test]
async fn a_daemon_that_takes_over_counts_from_then_and_goes_on_where_the_other_was() {
    let mut node = Node::start();
    let mut warm = create(&node, "warm", IdleSetting::After(1), IdleSetting::After(4)).await;
    let mut hot = create(&node, "hot", IdleSetting::After(2), IdleSetting::Never).await;
    let mut kept =
        Guest::create_by(node.admin(), CreateSandbox { keep_hot: true, ..create_request("kept") })
            .await;
    becomes(&mut warm, Thermal::Warm).await;
    hot.sh("true").await;
    node.kill9();
    node.restart();
    for guest in [&mut warm, &mut hot, &mut kept] {
        guest.client = node.admin();
    }
    becomes(&mut hot, Thermal::Warm).await;
    becomes(&mut warm, Thermal::Cold).await;
    assert_eq!(kept.view().await.thermal, Some(Thermal::Hot));
    for guest in [&mut warm, &mut hot, &mut kept] {
        guest.sh("true").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_served_whatever_pauses_or_stops_it_at_that_moment() {
    let node = Node::start();
    let guest = Guest::create(&node, "dev").await;
    for round in 0..200 {
        let (mut first, mut second) = (guest.by(node.admin()), guest.by(node.admin()));
        let put_away = tokio::spawn(async move {
            if round % 4 == 0 {
                first.client.stop(&first.id, drop).await.map(drop)
            } else {
                first.client.pause(&first.id).await.map(drop)
            }
        });
        let command = tokio::spawn(async move { second.sh(&format!("echo {round}")).await });
        let both = async { (put_away.await.unwrap(), command.await.unwrap()) };
        let (put_away, said) = tokio::time::timeout(HANGS, both)
            .await
            .unwrap_or_else(|_| panic!("round {round} hangs"));
        // A pause that comes before the command has woken what was stopped has nothing to pause.
        let fits = put_away
            .as_ref()
            .map_or_else(|error| error.api_code() == Some(&ErrorCode::WrongState), |()| true);
        assert!(fits, "round {round}: {put_away:?}");
        assert_eq!(said, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_served_whenever_it_falls_asleep_by_itself() {
    let node = Node::start();
    let mut guest = create(&node, "dev", IdleSetting::After(1), IdleSetting::After(2)).await;
    // Around the moments at which it falls asleep.
    for millis in (800..2400).step_by(100) {
        guest.sh("true").await;
        let moment = tokio::time::Instant::now() + Duration::from_millis(millis);
        tokio::time::sleep_until(moment).await;
        let served = tokio::time::timeout(HANGS, guest.sh("echo here")).await;
        assert_eq!(served.expect("a command hangs"), "here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_wake_it_once_and_the_first_may_leave() {
    let node = Node::start();
    let mut guest = create(&node, "dev", IdleSetting::Never, IdleSetting::After(1)).await;
    for _ in 0..2 {
        let cold = becomes(&mut guest, Thermal::Cold).await;
        edit(
            &mut guest,
            EditSandbox { idle_cold_sec: Some(IdleSetting::Never), ..EditSandbox::default() },
        )
        .await;
        let mut first = guest.by(node.admin());
        let leaves = tokio::spawn(async move { first.sh("sleep 1000").await });
        let clients: Vec<_> = (0..100)
            .map(|number| {
                let mut guest = guest.by(node.admin());
                tokio::spawn(async move { guest.sh(&format!("echo {number}")).await })
            })
            .collect();
        leaves.abort();
        for (number, client) in clients.into_iter().enumerate() {
            assert_eq!(client.await.unwrap(), number.to_string());
        }
        // One step each: cold, edited, woken.
        assert_eq!(guest.view().await.generation, cold.generation + 2, "it was woken twice");
        node.monitor(&guest.id);
        edit(
            &mut guest,
            EditSandbox { idle_cold_sec: Some(IdleSetting::After(1)), ..EditSandbox::default() },
        )
        .await;
    }
}

#[tokio::test]
async fn what_cannot_go_to_disk_goes_on_and_does_so_later() {
    let node = Node::with(&Options { sandboxes_bytes: Some(96 << 20), ..Options::default() });
    node.expect_warning("an idle sandbox could not be put to sleep");
    let mut guest = create(&node, "dev", IdleSetting::After(1), IdleSetting::Never).await;
    guest.sh("dd if=/dev/urandom of=/dev/shm/r bs=65536 count=64 2>/dev/null; echo kept > /dev/shm/file").await;
    let filler = node.data().join("sandboxes/filler");
    let full = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&filler).unwrap());
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    becomes(&mut guest, Thermal::Warm).await;
    let monitor = node.monitor(&guest.id);
    let cold = EditSandbox { idle_cold_sec: Some(IdleSetting::After(1)), ..EditSandbox::default() };
    edit(&mut guest, cold).await;
    assert!(node.said("an idle sandbox could not be put to sleep"));
    becomes(&mut guest, Thermal::Warm).await;
    assert_eq!(node.monitor(&guest.id), monitor);
    assert_eq!(guest.sh("cat /dev/shm/file").await, "kept");
    std::fs::remove_file(&filler).unwrap();
    becomes(&mut guest, Thermal::Cold).await;
    assert_eq!(guest.sh("cat /dev/shm/file").await, "kept");
}

#[tokio::test]
async fn a_command_that_was_cut_off_by_a_long_stop_is_told_so() {
    let node = Node::start();
    node.expect_warning("code=agent_unreachable");
    let request = CreateSandbox { memory_mb: Some(512), ..create_request("dev") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    // Much to write, so that it takes.
    guest.sh("dd if=/dev/urandom of=/dev/shm/r bs=65536 count=3000 2>/dev/null").await;
    let mut other = guest.by(node.admin());
    let mut events = guest.client.exec_stream(&guest.id, &sh("sleep 1000")).await.unwrap();
    assert!(matches!(events.next().await.unwrap(), Some(StreamEvent::Started { .. })));
    let stop = tokio::spawn(async move { other.stop().await });
    let error = loop {
        match events.next().await {
            Ok(Some(StreamEvent::Stdout(_) | StreamEvent::Stderr(_))) => {}
            Ok(other) => break format!("{other:?}"),
            Err(error) => break format!("{:?}", error.to_body()),
        }
    };
    assert!(error.contains("stopped meanwhile") && error.contains("goes on as job"), "{error}");
    stop.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_short_of_memory_puts_the_idlest_on_disk_and_nobody_who_is_busy() {
    // More than any host has, so that it is always short.
    let options = Options { memory_low_mb: Some(1 << 30), ..Options::default() };
    let node = Node::with(&options);
    let never = IdleSetting::Never;
    let mut idle = create(&node, "idle", IdleSetting::After(1), IdleSetting::After(3000)).await;
    let mut kept = create(&node, "kept", never, never).await;
    let mut busy = create(&node, "busy", never, IdleSetting::After(3000)).await;
    idle.sh("echo kept > /dev/shm/memory").await;
    let job = ExecRequest { keep_awake: true, ..sh("sleep 1000") };
    busy.detach(&job).await;
    becomes(&mut idle, Thermal::Warm).await;
    // Long enough not to count as used this moment; nothing tells when that is over.
    until("it has been idle for a while", async || {
        let view = idle.view().await;
        view.activity.is_none_or(|activity| activity.idle_sec >= 3).then_some(())
    })
    .await;
    // Whoever starts another VM makes the host look.
    let _another = create(&node, "another", never, never).await;
    becomes(&mut idle, Thermal::Cold).await;
    for awake in [&mut kept, &mut busy] {
        assert_eq!(awake.view().await.thermal, Some(Thermal::Hot));
    }
    assert_eq!(idle.view().await.status, Status::Running);
    assert_eq!(idle.sh("cat /dev/shm/memory").await, "kept");
}
