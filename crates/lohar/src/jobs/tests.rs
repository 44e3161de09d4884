use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proto::frame::FrameKind;
use proto::message::{
    Activity, Detach, ErrorCode, Exec, Exited, JobInfo, JobOutput, JobState, Request, Response,
};
use proto::mux::{Session, Stream};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::timeout;

use super::log::Log;
use super::reader::{Reader, Step};
use crate::testing::{
    Guest, PATIENCE, ask, fifo, hear, held, next, open, refused, released, shell, tell,
};

mod log;

const OUT: FrameKind = FrameKind::Stdout;
const ERR: FrameKind = FrameKind::Stderr;

fn job(script: &str) -> Exec {
    Exec { detach: Some(Detach::default()), ..shell(script) }
}

async fn started(host: &Session, exec: Exec) -> (String, i32) {
    match ask(host, &Request::Exec(exec)).await {
        Response::Started { pid, job } => (job, pid),
        other => panic!("{other:?}"),
    }
}

async fn follow(host: &Session, job: &str, offset: u64) -> Stream {
    let job = job.to_owned();
    open(host, &Request::JobOutput(JobOutput { job, offset, follow: true })).await
}

/// What was read of a job: where it began, pieces of one kind put together, skips, and the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    starts: Vec<u64>,
    pieces: Vec<(FrameKind, Vec<u8>)>,
    next: u64,
    state: Option<JobState>,
}

impl Heard {
    fn text(&self) -> Vec<(FrameKind, String)> {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        self.pieces.iter().map(|(kind, bytes)| (*kind, text(bytes))).collect()
    }

    /// All of one output. Which of two pipes was written to first, nobody can tell.
    fn all(&self, wanted: FrameKind) -> Vec<u8> {
        let pieces = self.pieces.iter().filter(|(kind, _)| *kind == wanted);
        pieces.flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    fn push(&mut self, kind: FrameKind, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some((last, piece)) if *last == kind => piece.extend(bytes),
            _ => self.pieces.push((kind, bytes.to_vec())),
        }
    }
}

async fn rest(stream: &mut Stream) -> Heard {
    let mut heard = Heard::default();
    loop {
        match next(stream).await {
            Ok((kind, bytes)) => heard.push(kind, &bytes),
            Err(Response::JobOutput { start }) => heard.starts.push(start),
            Err(Response::JobOutputEnd { next, state }) => {
                return Heard { next, state: Some(state), ..heard };
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn output(host: &Session, job: &str, offset: u64) -> Heard {
    let job = job.to_owned();
    let request = Request::JobOutput(JobOutput { job, offset, follow: false });
    rest(&mut open(host, &request).await).await
}

async fn jobs(host: &Session) -> Vec<JobInfo> {
    match ask(host, &Request::Jobs).await {
        Response::Jobs { jobs } => jobs,
        other => panic!("{other:?}"),
    }
}

fn exited(state: &JobState) -> Exited {
    match state {
        JobState::Exited { exited, .. } => exited.clone(),
        other => panic!("{other:?}"),
    }
}

fn ended(code: i32) -> Exited {
    Exited { code, signal: None, timed_out: false }
}

#[tokio::test]
async fn a_job_keeps_its_output_apart_in_order_and_under_cursors() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let steps = ["a", "b"].map(|name| fifo(&guest, name));
    let script = format!(
        "cat; printf one; read x < {}; printf two >&2; read x < {}; printf three; exit 5",
        steps[0].display(),
        steps[1].display()
    );
    let (id, pid) = started(&host, job(&script)).await;
    assert_eq!(id, "j1");
    let mut follower = follow(&host, &id, 0).await;
    assert_eq!(next(&mut follower).await, Err(Response::JobOutput { start: 0 }));
    assert_eq!(next(&mut follower).await, Ok((OUT, b"one".to_vec())));
    let [JobInfo { state: JobState::Running, output_end: 3, .. }] = &jobs(&host).await[..] else {
        panic!()
    };
    tell(&steps[0], "go\n").await;
    assert_eq!(next(&mut follower).await, Ok((ERR, b"two".to_vec())));
    tell(&steps[1], "go\n").await;
    let heard = rest(&mut follower).await;
    assert_eq!(heard.text(), [(OUT, "three".to_owned())]);
    assert_eq!((heard.next, exited(heard.state.as_ref().unwrap())), (11, ended(5)));
    let all = output(&host, &id, 0).await;
    let expected = [(OUT, "one"), (ERR, "two"), (OUT, "three")].map(|(k, t)| (k, t.to_owned()));
    assert_eq!(all.text(), expected);
    let part = output(&host, &id, 4).await;
    assert_eq!(part.text(), [(ERR, "wo".to_owned()), (OUT, "three".to_owned())]);
    assert_eq!(part.starts, [4]);
    let beyond = output(&host, &id, 99).await;
    assert_eq!((beyond.starts, beyond.next), (vec![11], 11));
    let [info] = &jobs(&host).await[..] else { panic!() };
    assert_eq!((info.pid, info.output_start, info.output_end), (pid, 0, 11));
    assert_eq!(info.argv[..2], ["sh", "-c"]);
    assert!(info.started_at > 1_600_000_000, "{info:?}");
}

#[tokio::test]
async fn what_is_not_there_is_unknown_and_what_runs_is_not_removed() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    for id in ["j1", "j01", "j", "1", "j99999999999999999999", "j1/../.."] {
        let remove = Request::JobRemove { job: id.to_owned() };
        assert_eq!(refused(&host, &remove).await, ErrorCode::UnknownJob, "{id}");
        let read = JobOutput { job: id.to_owned(), ..JobOutput::default() };
        assert_eq!(refused(&host, &Request::JobOutput(read)).await, ErrorCode::UnknownJob, "{id}");
    }
    let kill = |id: &str, signal| Request::Kill { id: id.to_owned(), signal };
    assert_eq!(refused(&host, &kill("j7", 15)).await, ErrorCode::UnknownJob);
    assert_eq!(refused(&host, &kill("s7", 15)).await, ErrorCode::UnknownSession);
    let (id, _) = started(&host, job("exec sleep 1000")).await;
    let remove = Request::JobRemove { job: id.clone() };
    assert_eq!(refused(&host, &remove).await, ErrorCode::Invalid);
    for signal in [0, -1, 65, i32::MAX] {
        assert_eq!(refused(&host, &kill(&id, signal)).await, ErrorCode::Invalid, "{signal}");
    }
    let mut follower = follow(&host, &id, 0).await;
    assert_eq!(ask(&host, &kill(&id, 15)).await, Response::Done);
    let state = rest(&mut follower).await.state.unwrap();
    assert_eq!(exited(&state), Exited { code: 143, signal: Some(15), timed_out: false });
    assert_eq!(ask(&host, &kill(&id, 15)).await, Response::Done);
    assert_eq!(ask(&host, &remove).await, Response::Done);
    assert_eq!(jobs(&host).await, []);
    assert!(!guest.path().join("var/log/bhatti/jobs").join(&id).exists());
    assert_eq!(started(&host, job("true")).await.0, "j2");
}

#[tokio::test]
async fn a_job_is_killed_with_all_that_it_has_started() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let pipe = fifo(&guest, "held");
    let script = format!("sh -c 'sleep 1000; :' > {} & wait", pipe.display());
    let (id, _) = started(&host, job(&script)).await;
    let pipe = held(pipe).await;
    assert_eq!(ask(&host, &Request::Kill { id, signal: 9 }).await, Response::Done);
    released(pipe).await;
}

#[tokio::test]
async fn a_job_whose_time_is_up_is_killed_and_says_so() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let exec = Exec { timeout_ms: Some(200), ..job("echo before; sleep 1000") };
    let (id, _) = started(&host, exec).await;
    let heard = rest(&mut follow(&host, &id, 0).await).await;
    assert_eq!(heard.text(), [(OUT, "before\n".to_owned())]);
    let state = exited(&heard.state.unwrap());
    assert_eq!(state, Exited { code: 137, signal: Some(9), timed_out: true });
}

#[tokio::test]
async fn a_job_that_cannot_start_is_none() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let missing = Exec { argv: vec!["/no/such".to_owned()], ..job("") };
    assert_eq!(refused(&host, &Request::Exec(missing)).await, ErrorCode::CommandNotFound);
    assert_eq!(jobs(&host).await, []);
}

#[tokio::test]
async fn a_lost_host_makes_jobs_of_commands_with_all_that_follows() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let go = fifo(&guest, "go");
    // Far more than anything between the command and a host that does not read can hold.
    let script = format!("seq 500000; read x < {}; echo last; echo err >&2; exit 3", go.display());
    let mut stream = open(&host, &Request::Exec(shell(&script))).await;
    let Response::Started { job: id, .. } = hear(&mut stream).await else { panic!() };
    assert_eq!(jobs(&host).await, []);
    let mut got = Vec::new();
    while got.len() < 100_000 {
        got.extend(next(&mut stream).await.unwrap().1);
    }
    host.close();
    timeout(PATIENCE, host.closed()).await.unwrap();
    let host = guest.owned().await;
    let mut follower = follow(&host, &id, 0).await;
    tell(&go, "go\n").await;
    let heard = rest(&mut follower).await;
    assert_eq!(exited(heard.state.as_ref().unwrap()), ended(3));
    let seq = heard.all(OUT);
    assert_eq!(heard.all(ERR), b"err\n");
    // What was on its way is lost, nothing after it is.
    let all: String = (1..=500_000).map(|number| format!("{number}\n")).collect();
    let all = all + "last\n";
    assert!(all.as_bytes().ends_with(&seq));
    assert!(seq.len() > all.len() / 2, "{}", seq.len());
    assert_eq!(guest.agent.activity().running, 0);
}

#[tokio::test]
async fn a_command_that_ended_while_its_host_was_lost_is_found_with_its_end() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut stream = open(&host, &Request::Exec(shell("seq 100000; exit 4"))).await;
    let Response::Started { job: id, .. } = hear(&mut stream).await else { panic!() };
    // Time for the command to end, if the pipe lets it, while nobody reads.
    for _ in 0..20 {
        assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    }
    host.close();
    let host = guest.owned().await;
    let heard = rest(&mut follow(&host, &id, 0).await).await;
    assert_eq!(exited(&heard.state.unwrap()), ended(4));
    assert!(heard.pieces.last().unwrap().1.ends_with(b"\n100000\n"));
}

#[tokio::test]
async fn a_host_that_drops_the_stream_of_a_job_does_not_end_it() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let go = fifo(&guest, "go");
    let script = format!("read x < {}; echo done", go.display());
    let (id, _) = started(&host, job(&script)).await;
    drop(follow(&host, &id, 0).await);
    host.close();
    timeout(PATIENCE, host.closed()).await.unwrap();
    let host = guest.owned().await;
    tell(&go, "go\n").await;
    let heard = rest(&mut follow(&host, &id, 0).await).await;
    assert_eq!(heard.text(), [(OUT, "done\n".to_owned())]);
}

#[tokio::test]
async fn a_slow_follower_skips_what_is_gone_and_blocks_nothing() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let go = fifo(&guest, "go");
    let script = format!("echo first; read x < {}; seq 1000000", go.display());
    let detach = Detach { output_max: Some(1), ..Detach::default() };
    let exec = Exec { detach: Some(detach), ..shell(&script) };
    let (id, _) = started(&host, exec).await;
    let mut slow = follow(&host, &id, 0).await;
    assert_eq!(next(&mut slow).await, Err(Response::JobOutput { start: 0 }));
    assert_eq!(next(&mut slow).await, Ok((OUT, b"first\n".to_vec())));
    tell(&go, "go\n").await;
    // Another that reads learns of the end while the slow one stands still.
    let quick = rest(&mut follow(&host, &id, 6).await).await;
    assert_eq!(exited(quick.state.as_ref().unwrap()), ended(0));
    let total =
        6 + (1..=1_000_000).map(|number: u32| number.to_string().len() as u64 + 1).sum::<u64>();
    assert_eq!(quick.next, total);
    let heard = rest(&mut slow).await;
    assert!(!heard.starts.is_empty());
    assert_eq!((heard.next, heard.state), (total, quick.state));
    assert!(heard.pieces[0].1.ends_with(b"\n999999\n1000000\n"));
    let [info] = &jobs(&host).await[..] else { panic!() };
    let kept = info.output_end - info.output_start;
    assert!((16 * 1024..=64 * 1024).contains(&kept), "{kept}");
    let directory = guest.path().join("var/log/bhatti/jobs").join(&id);
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let sizes = files.filter(|file| file.file_name() != "meta.json").map(|file| file.metadata());
    assert!(sizes.map(|meta| meta.unwrap().len()).sum::<u64>() <= 64 * 1024);
    let again = output(&host, &id, 0).await;
    assert_eq!(again.starts, [info.output_start]);
}

#[tokio::test]
async fn a_background_child_does_not_hold_the_end_of_a_job() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (go, done) = (fifo(&guest, "go"), fifo(&guest, "done"));
    let script =
        format!("(read x < {}; echo late; : > {}) & echo now", go.display(), done.display());
    let (id, _) = started(&host, job(&script)).await;
    let heard = rest(&mut follow(&host, &id, 0).await).await;
    assert_eq!(heard.text(), [(OUT, "now\n".to_owned())]);
    tell(&go, "go\n").await;
    released(held(done).await).await;
}

#[tokio::test]
async fn jobs_outlive_a_cold_boot_and_their_ids_are_not_given_again() {
    let mut guest = Guest::new().await;
    let host = guest.owned().await;
    let (done, _) = started(&host, job("echo kept; echo err >&2; exit 2")).await;
    rest(&mut follow(&host, &done, 0).await).await;
    let (running, pid) = started(&host, job("echo begun; exec sleep 1000")).await;
    let mut follower = follow(&host, &running, 0).await;
    assert_eq!(next(&mut follower).await, Err(Response::JobOutput { start: 0 }));
    assert_eq!(next(&mut follower).await, Ok((OUT, b"begun\n".to_vec())));
    let (removed, _) = started(&host, job("true")).await;
    rest(&mut follow(&host, &removed, 0).await).await;
    let before = jobs(&host).await;
    assert_eq!(ask(&host, &Request::JobRemove { job: removed.clone() }).await, Response::Done);
    guest.agent.jobs.freeze();
    guest.agent.jobs.flush();
    host.close();
    guest.boot_again();
    kill_process_group(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let host = guest.owned().await;
    let after = jobs(&host).await;
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1], JobInfo { state: JobState::Lost, ..before[1].clone() });
    assert_eq!(after.len(), 2);
    let heard = output(&host, &running, 0).await;
    assert_eq!(
        (heard.text(), heard.state),
        (vec![(OUT, "begun\n".to_owned())], Some(JobState::Lost))
    );
    let heard = output(&host, &done, 0).await;
    assert_eq!((heard.all(OUT), heard.all(ERR)), (b"kept\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(removed, "j3");
    assert_eq!(started(&host, job("true")).await.0, "j4");
    assert_eq!(ask(&host, &Request::JobRemove { job: running }).await, Response::Done);
}

#[tokio::test]
async fn the_oldest_ended_jobs_are_forgotten() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (kept, _) = started(&host, job("exec sleep 1000")).await;
    for _ in 0..super::ENDED_MAX + 3 {
        let (id, _) = started(&host, job("echo x")).await;
        rest(&mut follow(&host, &id, 0).await).await;
    }
    let ids: Vec<_> = jobs(&host).await.into_iter().map(|job| job.id).collect();
    assert_eq!(ids.len(), super::ENDED_MAX + 1);
    assert_eq!(ids[..2], [kept.clone(), "j5".to_owned()]);
    let on_disk = fs::read_dir(guest.path().join("var/log/bhatti/jobs")).unwrap().count();
    assert_eq!(on_disk, ids.len());
    ask(&host, &Request::Kill { id: kept, signal: 9 }).await;
}

#[tokio::test]
async fn jobs_that_keep_the_sandbox_awake_are_told_of_as_they_come_and_go() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut watch = open(&host, &Request::ActivityWatch).await;
    let Response::Activity(Activity { keep_awake: 0, .. }) = hear(&mut watch).await else {
        panic!()
    };
    let quiet = started(&host, job("exec sleep 1000")).await.0;
    let detach = Detach { keep_awake: true, ..Detach::default() };
    let exec = Exec { detach: Some(detach), ..shell("exec sleep 1000") };
    let (id, _) = started(&host, exec).await;
    let Response::Activity(Activity { keep_awake: 1, running: 0, .. }) = hear(&mut watch).await
    else {
        panic!()
    };
    assert_eq!(guest.agent.activity().keep_awake, 1);
    for id in [id, quiet] {
        ask(&host, &Request::Kill { id, signal: 9 }).await;
    }
    let Response::Activity(Activity { keep_awake: 0, .. }) = hear(&mut watch).await else {
        panic!()
    };
}

#[tokio::test]
async fn too_many_jobs_are_refused_but_commands_run() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut ids = Vec::new();
    for _ in 0..super::JOBS_MAX {
        ids.push(started(&host, job("exec sleep 1000")).await.0);
    }
    assert_eq!(refused(&host, &Request::Exec(job("true"))).await, ErrorCode::Limit);
    assert_eq!(crate::testing::run(&host, shell("echo yes")).await.0, "yes\n");
    for id in ids {
        ask(&host, &Request::Kill { id, signal: 9 }).await;
    }
}
