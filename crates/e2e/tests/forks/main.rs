//! Copies of a sandbox that runs on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod refusals;
mod siblings;

use api::{JobEvent, JobStatus, StartFrom, Status, Thermal};
use e2e::{Counting, ENOUGH, Guest, Living, Node, Terminal};

/// What a job has said, as text; it may have been said from some point on only.
async fn said(guest: &mut Guest, job: &str, follow: bool) -> (String, JobEvent) {
    let (mut said, shown) = (Vec::new(), guest.client.job(&guest.id, job).await.unwrap());
    let from = shown.output_start;
    let mut events = guest.client.job_output(&guest.id, job, from, follow).await.unwrap();
    while let Some(event) = events.next().await.unwrap() {
        match event {
            JobEvent::Stdout { payload, .. } => said.extend(payload.into_bytes().unwrap()),
            JobEvent::Stderr { .. } | JobEvent::Missed { .. } => panic!("{event:?}"),
            last => return (String::from_utf8(said).unwrap(), last),
        }
    }
    panic!("the output has no end");
}

/// In a copy the command in the foreground of the source is a job: what nobody was told is kept,
/// and it goes on to its own end. `last` is the last number that the source had come to by then.
async fn the_command_became_a_job(copy: &mut Guest, job: &str, last: u64) {
    let shown = copy.client.job(&copy.id, job).await.unwrap();
    assert_eq!(shown.status, JobStatus::Running);
    copy.sh("touch /tmp/enough").await;
    let (output, end) = said(copy, job, true).await;
    let numbers: Vec<u64> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!(numbers.first().is_some_and(|first| *first <= last + 1), "{last}: {numbers:?}");
    assert!(matches!(end, JobEvent::End { exit_code: Some(ENOUGH), .. }), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_sandbox_runs_on_and_its_copies_run_on_beside_it() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    let (mut watching, looking) = (guest.by(node.admin()), guest.by(node.admin()));
    let mut counting = Counting::begin(&mut watching).await;
    let mut shell = Terminal::open(&looking, "new=true").await;
    shell.type_in("secret=kept; echo re''ady\n").await;
    shell.until("ready\r\n").await;
    assert_eq!(Living::ask(&mut guest).await, 1);

    let mut copies = guest.fork("one", 1, || node.admin()).await;
    counting.goes_on(3).await;
    copies.extend(guest.fork("many", 10, || node.admin()).await);
    let last = guest.sh("tail -n 1 /tmp/last").await.parse().unwrap();
    counting.goes_on(10).await;
    shell.type_in("echo \"<$secret>\"\n").await;
    shell.until("<kept>\r\n").await;
    living.check(&mut guest, "the source").await;
    assert_eq!(Living::ask(&mut guest).await, 2);

    let mut names = vec!["one".to_owned()];
    names.extend((1..=10).map(|number| format!("many-{number}")));
    for (copy, name) in copies.iter_mut().zip(&names) {
        let view = copy.view().await;
        assert_eq!((&view.name, &view.status), (name, &Status::Running));
        assert_eq!(copy.sh("hostname").await, *name);
        living.check(copy, name).await;
        assert_eq!(Living::ask(copy).await, 2);
        copy.sh("hostname > /tmp/who; sync").await;
    }
    for (copy, name) in copies.iter_mut().zip(&names) {
        assert_eq!(copy.sh("cat /tmp/who").await, *name);
    }
    for copy in [0, 10] {
        the_command_became_a_job(&mut copies[copy], &counting.job, last).await;
        let mut copied = Terminal::open(&copies[copy], &format!("session={}", shell.session)).await;
        assert!(!copied.created);
        assert!(String::from_utf8(copied.replayed().await).unwrap().contains("ready\r\n"));
        copied.type_in("echo \"<$secret>\"\n").await;
        copied.until("<kept>\r\n").await;
    }
    counting.goes_on(3).await;
    guest.sh("test ! -e /tmp/who && touch /tmp/enough").await;
    counting.ends().await;
}

#[tokio::test]
async fn copies_of_copies_and_of_what_sleeps_or_was_booted() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    assert_eq!(Living::ask(&mut guest).await, 1);
    // A copy of a copy, whose parents are gone.
    let mut child = guest.fork("child", 1, || node.admin()).await.remove(0);
    assert_eq!(Living::ask(&mut child).await, 2);
    let mut grandchild = child.fork("grandchild", 1, || node.admin()).await.remove(0);
    child.destroy().await;
    assert_eq!(Living::ask(&mut grandchild).await, 3);
    living.check(&mut grandchild, "the grandchild").await;
    grandchild.stop().await;
    living.check(&mut grandchild, "the grandchild after a stop").await;
    grandchild.destroy().await;

    guest.client.pause(&guest.id).await.unwrap();
    let mut of_warm = guest.fork("of-warm", 1, || node.admin()).await.remove(0);
    assert_eq!(guest.view().await.thermal, Some(Thermal::Warm));
    living.check(&mut of_warm, "the copy of a paused one").await;
    assert_eq!(Living::ask(&mut of_warm).await, 2);
    of_warm.destroy().await;

    let stopped = guest.stop().await;
    let mut of_cold = guest.fork("of-cold", 2, || node.admin()).await;
    assert_eq!(guest.view().await, stopped);
    for copy in &mut of_cold {
        living.check(copy, "a copy of a stopped one").await;
        assert_eq!(Living::ask(copy).await, 2);
    }
    of_cold.remove(0).destroy().await;
    living.check(&mut guest, "the source").await;
    assert_eq!(Living::ask(&mut guest).await, 2);

    // One that owns its memory, because it booted.
    guest.sh("sync").await;
    guest.stop().await;
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    guest.sh("rm -f /tmp/ask /tmp/answer /tmp/disk").await;
    let living = Living::plant(&mut guest).await;
    let mut of_booted = guest.fork("of-booted", 2, || node.admin()).await;
    for copy in of_booted.iter_mut().chain([&mut guest]) {
        living.check(copy, "after a boot").await;
        assert_eq!(Living::ask(copy).await, 1);
    }
    of_booted[0].stop().await;
    living.check(&mut of_booted[0], "a copy of a booted one after a stop").await;
}
