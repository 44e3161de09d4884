//! Commands that nobody waits for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{ErrorCode, ExecRequest, JobEvent, JobStatus, Kill};
use e2e::{Guest, Node, refused, root, sh, signal};

/// Everything that a job has written from a cursor on, and the event that came last.
async fn logs(
    guest: &mut Guest,
    job: &str,
    from: u64,
    follow: bool,
) -> (Vec<u8>, Vec<u8>, JobEvent) {
    let (mut stdout, mut stderr, mut at) = (Vec::new(), Vec::new(), from);
    let mut events = guest.client.job_output(&guest.id, job, from, follow).await.unwrap();
    while let Some(event) = events.next().await.unwrap() {
        match event {
            JobEvent::Stdout { offset, payload } => {
                assert_eq!(offset, at, "a gap or a repetition");
                let bytes = payload.into_bytes().unwrap();
                at += bytes.len() as u64;
                stdout.extend(bytes);
            }
            JobEvent::Stderr { offset, payload } => {
                assert_eq!(offset, at, "a gap or a repetition");
                let bytes = payload.into_bytes().unwrap();
                at += bytes.len() as u64;
                stderr.extend(bytes);
            }
            JobEvent::Missed { offset } => at = offset,
            last => return (stdout, stderr, last),
        }
    }
    panic!("the output has no end");
}

fn exit_code(last: &JobEvent) -> Option<i32> {
    let JobEvent::End { exit_code, .. } = last else { panic!("{last:?}") };
    *exit_code
}

/// A counter that says every number on both outputs, until it is told to stop.
const COUNTER: &str = "n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo $n; echo e$n >&2; \
                       usleep 2000; done; exit 42";

fn assert_gapless(stdout: &[u8], stderr: &[u8]) -> usize {
    let out = String::from_utf8(stdout.to_vec()).unwrap();
    let err = String::from_utf8(stderr.to_vec()).unwrap();
    let count = out.lines().count();
    for (index, line) in out.lines().enumerate() {
        assert_eq!(line, (index + 1).to_string());
    }
    for (index, line) in err.lines().enumerate() {
        assert_eq!(line, format!("e{}", index + 1));
    }
    assert!(count.abs_diff(err.lines().count()) <= 1);
    count
}

#[tokio::test]
async fn a_job_goes_on_without_a_client_and_keeps_what_it_writes() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let job = guest.detach(&sh("echo out; echo err >&2; while [ ! -e /tmp/go ]; do usleep 1000; done; printf last; exit 7")).await;
    let (stdout, stderr, last) = logs(&mut guest, &job, 0, false).await;
    let JobEvent::End { offset, status, exit_code: None } = last else { panic!("{last:?}") };
    assert_eq!(status, JobStatus::Running);
    assert!(b"out\n".starts_with(&stdout[..]) && b"err\n".starts_with(&stderr[..]));
    let mut follower = guest.by(node.admin());
    let name = job.clone();
    let following = tokio::spawn(async move { logs(&mut follower, &name, 0, true).await });
    let shown = guest.client.job(&guest.id, &job).await.unwrap();
    assert_eq!(
        (&shown.status, shown.exit_code, shown.cmd[0].as_str()),
        (&JobStatus::Running, None, "sh")
    );
    guest.sh("touch /tmp/go").await;
    let (stdout, stderr, last) = following.await.unwrap();
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"out\nlast"[..], &b"err\n"[..]));
    assert_eq!(exit_code(&last), Some(7));
    // From a cursor on, and after the end.
    let (stdout, stderr, last) = logs(&mut guest, &job, offset.max(8), false).await;
    assert_eq!(
        (stdout.as_slice(), stderr.as_slice(), exit_code(&last)),
        (&b"last"[..], &b""[..], Some(7))
    );
    let (stdout, _, last) = logs(&mut guest, &job, 12, true).await;
    assert_eq!((stdout.len(), exit_code(&last)), (0, Some(7)));

    let all = guest.client.jobs(&guest.id).await.unwrap();
    assert_eq!((all.len(), &all[0].status, all[0].output_end), (1, &JobStatus::Exited, 12));
    assert!(all[0].ended_at.is_some());
    guest.client.job_remove(&guest.id, &job).await.unwrap();
    assert!(guest.client.jobs(&guest.id).await.unwrap().is_empty());
    let gone = refused(guest.client.job(&guest.id, &job).await);
    assert_eq!(gone.code, ErrorCode::JobNotFound);
}

#[tokio::test]
async fn a_job_survives_stop_pause_and_the_daemon_s_death_without_a_gap() {
    let mut node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let job = guest.detach(&sh(COUNTER)).await;
    let goes_on = "was=$(cat /tmp/n 2>/dev/null); sleep 0.05";
    guest.sh(goes_on).await;
    let before = guest.client.job(&guest.id, &job).await.unwrap().output_end;
    guest.stop().await;
    guest.start(None).await.unwrap();
    guest.client.pause(&guest.id).await.unwrap();
    guest.client.resume(&guest.id).await.unwrap();
    node.restart();
    guest.client = node.admin();
    let after = guest.client.job(&guest.id, &job).await.unwrap();
    assert_eq!(after.status, JobStatus::Running);
    assert!(after.output_end >= before);
    node.kill9();
    node.restart();
    guest.client = node.admin();
    guest.stop().await;
    guest.sh("touch /tmp/enough").await;
    let (stdout, stderr, last) = logs(&mut guest, &job, 0, true).await;
    assert_eq!(exit_code(&last), Some(42));
    assert!(assert_gapless(&stdout, &stderr) > 20);
}

#[tokio::test]
async fn a_foreground_command_whose_sandbox_is_stopped_goes_on_as_a_job() {
    let node = Node::start();
    node.expect_warning("code=agent_unreachable");
    let mut guest = Guest::create(&node, "dev").await;
    let mut watcher = guest.by(node.admin());
    let mut events = guest.client.exec_stream(&guest.id, &sh(COUNTER)).await.unwrap();
    let Some(api::StreamEvent::Started { job_id, .. }) = events.next().await.unwrap() else {
        panic!("the start is told first")
    };
    let Some(api::StreamEvent::Stdout(_)) = events.next().await.unwrap() else { panic!() };
    watcher.stop().await;
    let told = loop {
        match events.next().await.unwrap() {
            Some(api::StreamEvent::Error(body)) => break body,
            Some(_) => {}
            None => panic!("the stream has no end"),
        }
    };
    assert_eq!(told.code, ErrorCode::AgentUnreachable);
    assert!(told.hint.unwrap().contains(&job_id));
    drop(events);
    watcher.sh("touch /tmp/enough").await;
    let (stdout, _, last) = logs(&mut watcher, &job_id, 0, true).await;
    assert_eq!(exit_code(&last), Some(42));
    assert!(!stdout.is_empty());
}

#[tokio::test]
async fn the_oldest_output_goes_when_there_is_too_much() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let request = ExecRequest {
        output_max_bytes: Some(1 << 20),
        ..sh("yes 0123456789abcde | head -c 8000000; echo end >&2")
    };
    let job = guest.detach(&request).await;
    let (_, stderr, last) = logs(&mut guest, &job, 0, true).await;
    assert_eq!((stderr.as_slice(), exit_code(&last)), (&b"end\n"[..], Some(0)));
    let shown = guest.client.job(&guest.id, &job).await.unwrap();
    assert_eq!(shown.output_end, 8_000_004);
    assert!(shown.output_start > 5_000_000, "{shown:?}");
    let (stdout, stderr, _) = logs(&mut guest, &job, 0, false).await;
    assert_eq!((stdout.len() + stderr.len()) as u64, shown.output_end - shown.output_start);
    assert!(
        stdout.ends_with(b"abcde\n") || stdout.ends_with(b"0"),
        "{:?}",
        &stdout[stdout.len() - 20..]
    );
}

#[tokio::test]
async fn a_job_is_killed_with_all_that_it_started_and_may_have_a_time_limit() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let job = guest.detach(&sh("sleep 1001 & sh -c 'sleep 1002 & wait' & echo up; wait")).await;
    guest.sh("until pidof sleep | grep -q ' '; do usleep 1000; done").await;
    let unknown = refused(guest.client.job_kill(&guest.id, "j999", &Kill::default()).await);
    assert_eq!(unknown.code, ErrorCode::JobNotFound);
    let odd = refused(guest.client.job_kill(&guest.id, &job, &signal("SIGNONSENSE")).await);
    assert_eq!(odd.code, ErrorCode::InvalidRequest);
    guest.client.job_kill(&guest.id, &job, &signal("KILL")).await.unwrap();
    let (stdout, _, last) = logs(&mut guest, &job, 0, true).await;
    assert_eq!((stdout.as_slice(), exit_code(&last)), (&b"up\n"[..], Some(137)));
    guest.sh("while pidof sleep; do usleep 1000; done").await;
    let limited = ExecRequest { timeout_sec: Some(1), ..sh("echo a; sleep 1000") };
    let job = guest.detach(&limited).await;
    let (stdout, _, last) = logs(&mut guest, &job, 0, true).await;
    assert_eq!((stdout.as_slice(), exit_code(&last)), (&b"a\n"[..], Some(137)));
    assert!(guest.client.job(&guest.id, &job).await.unwrap().timed_out);
}

#[tokio::test]
async fn jobs_of_a_guest_that_lost_its_power_are_lost_and_their_output_is_not() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut guest = Guest::create(&node, "dev").await;
    let job = guest.detach(&sh("echo wri''tten; while :; do sleep 1; done")).await;
    let done = guest.detach(&sh("echo done; exit 3")).await;
    logs(&mut guest, &done, 0, true).await;
    guest.root("until grep -rq written /var/log/bhatti/jobs; do usleep 5000; done; sync").await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(node.monitor(&guest.id)).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    guest.failed().await;
    guest.start(None).await.unwrap();
    let jobs = guest.client.jobs(&guest.id).await.unwrap();
    let of = |id: &str| jobs.iter().find(|shown| shown.id == *id).unwrap().status.clone();
    assert_eq!((of(&job), of(&done)), (JobStatus::Lost, JobStatus::Exited));
    let (stdout, _, last) = logs(&mut guest, &job, 0, true).await;
    assert_eq!(stdout, b"written\n");
    assert!(matches!(last, JobEvent::End { status: JobStatus::Lost, .. }));
    let next = guest.detach(&sh("true")).await;
    assert!(![job, done].contains(&next), "an id is used twice");
}

#[tokio::test]
async fn the_program_shows_jobs_their_output_and_ends_them() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let line =
        ["exec", "--detach", "dev", "--", "sh", "-c", "echo out; echo err >&2; exec sleep 1000"];
    let started = node.cli(&line);
    assert!(started.status.success());
    let job = text(started.stdout).trim().to_owned();
    guest.sh("until pidof sleep; do usleep 1000; done").await;
    let logs = node.cli(&["logs", "dev", &job]);
    assert_eq!((text(logs.stdout).as_str(), text(logs.stderr).as_str()), ("out\n", "err\n"));
    let whole = node.cli(&["--json", "logs", "dev", &job]);
    let last: JobEvent = serde_json::from_str(text(whole.stdout).lines().last().unwrap()).unwrap();
    assert!(matches!(last, JobEvent::End { offset: 8, .. }), "{last:?}");
    let since = node.cli(&["logs", "dev", &job, "--since", "6"]);
    let rest = text(since.stdout) + &text(since.stderr);
    assert!(["t\n", "r\n"].contains(&rest.as_str()), "{rest:?}");
    let jobs = text(node.cli(&["jobs", "dev"]).stdout);
    assert!(jobs.contains(&job) && jobs.contains("running"), "{jobs}");
    assert!(node.cli(&["kill", "dev", &job]).status.success());
    let followed = node.cli(&["logs", "-f", "dev", &job]);
    assert_eq!(text(followed.stdout), "out\n");
    let missing = node.cli(&["logs", "dev", "j99"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(missing.stderr).contains("j99"));
    let root_job = ExecRequest { detach: true, ..root("echo as root") };
    guest.client.detach(&guest.id, &root_job).await.unwrap();
}
