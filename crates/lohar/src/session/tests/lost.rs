//! The host is lost at any byte, as a copy of a running guest finds it.

use std::path::Path;

use proto::message::{
    Activity, Attach, Detach, Exec, FileWrite, JobInfo, JobOutput, NewSession, Resting, Target,
};
use proto::mux::Stream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::agent::{ARCHIVES_MAX, FILE_OPERATIONS_MAX, WATCHES_MAX};
use crate::testing::{fifo, next, run, tell};

async fn started(host: &Session, exec: Exec) -> (Stream, String) {
    let mut stream = open(host, &Request::Exec(exec)).await;
    let Response::Started { job, .. } = hear(&mut stream).await else { panic!() };
    (stream, job)
}

async fn resting(host: &Session, hang_up: bool) -> Resting {
    match ask(host, &Request::Rest { hang_up }).await {
        Response::Resting(resting) => resting,
        other => panic!("{other:?}"),
    }
}

async fn jobs(host: &Session) -> Vec<JobInfo> {
    match ask(host, &Request::Jobs).await {
        Response::Jobs { jobs } => jobs,
        other => panic!("{other:?}"),
    }
}

fn ids(jobs: &[JobInfo]) -> Vec<&str> {
    jobs.iter().map(|job| job.id.as_str()).collect()
}

/// Asks until it is so.
async fn until(host: &Session, what: &str, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            assert_eq!(ask(host, &Request::Ping).await, Response::Done);
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Sends without an end.
fn flood(mut stream: Stream, first: Vec<u8>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut next = first;
        while stream.send_data(FrameKind::Data, &next).await.is_ok() {
            next = vec![b'x'; 30_000];
        }
    })
}

/// Names that begin as those of unfinished files do.
fn unfinished(directory: &Path) -> usize {
    let names = fs::read_dir(directory).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".lohar-") || name == "big").count()
}

/// The beginning of an archive with a file that is larger than what comes of it.
fn beginning_of_an_archive() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

async fn all_of(host: &Session, job: &str) -> Vec<u8> {
    let request = JobOutput { job: job.to_owned(), offset: 0, follow: true };
    let mut stream = open(host, &Request::JobOutput(request)).await;
    let mut output = Vec::new();
    loop {
        match next(&mut stream).await {
            Ok((_, bytes)) => output.extend(bytes),
            Err(Response::JobOutput { .. }) => {}
            Err(Response::JobOutputEnd { .. }) => return output,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn commands_become_the_jobs_that_were_told_and_keep_what_nobody_got() {
    let guest = Guest::new().await;
    let (host, line) = guest.owned_over_line().await;
    let (go, done) = (fifo(&guest, "go"), fifo(&guest, "done"));
    let keep = Detach { keep_awake: true, output_max: None };
    let (_, kept) = started(&host, Exec { detach: Some(keep), ..shell("exec sleep 1000") }).await;
    let quiet = format!("echo first; read x < {}; echo last", go.display());
    let (mut quiet_stream, quiet) = started(&host, shell(&quiet)).await;
    assert_eq!(next(&mut quiet_stream).await, Ok((FrameKind::Stdout, b"first\n".to_vec())));
    let loud = format!("seq 300000; read x < {}; echo end", done.display());
    let (_loud_stream, loud) = started(&host, shell(&loud)).await;
    let input = Exec { stdin: true, ..shell("exec cat") };
    let (mut input_stream, input) = started(&host, input).await;
    input_stream.send_data(FrameKind::Stdin, b"half a li").await.unwrap();
    assert_eq!(next(&mut input_stream).await, Ok((FrameKind::Stdout, b"half a li".to_vec())));
    // One that is over is no job.
    run(&host, shell("true")).await;

    let as_they_are = resting(&host, false).await;
    assert_eq!(ids(&as_they_are.jobs), [&kept]);
    let told = resting(&host, true).await;
    assert_eq!(ids(&told.jobs), [&kept, &quiet, &loud, &input]);
    line.cut().await;

    let host = guest.owned().await;
    until(&host, "commands are counted", || guest.agent.activity().running == 0).await;
    let found = jobs(&host).await;
    let same = |job: &JobInfo| JobInfo { output_end: 0, started_at: 0, ..job.clone() };
    let (told, found): (Vec<_>, Vec<_>) =
        (told.jobs.iter().map(same).collect(), found.iter().map(same).collect());
    assert_eq!(told, found);
    assert_eq!(guest.agent.activity().keep_awake, 1);
    assert_eq!(ids(&resting(&host, true).await.jobs), [&kept, &quiet, &loud, &input]);

    tell(&go, "go\n").await;
    tell(&done, "go\n").await;
    assert_eq!(all_of(&host, &quiet).await, b"last\n");
    let all: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    let rest = all_of(&host, &loud).await;
    assert!((all + "end\n").as_bytes().ends_with(&rest) && rest.len() > 1_000_000);
    for id in [kept, input] {
        assert_eq!(ask(&host, &Request::Kill { id, signal: 9 }).await, Response::Done);
    }
    until(&host, "a job is counted", || guest.agent.activity().keep_awake == 0).await;
}

#[tokio::test]
async fn what_only_the_host_wanted_is_gone_and_counts_no_more() {
    let guest = Guest::new().await;
    let (host, line) = guest.owned_over_line().await;
    let program = NewSession {
        argv: shell("echo before; read x; echo after; exec sleep 1000").argv,
        user: shell("").user,
        tty: true,
        ..NewSession::default()
    };
    let attach = |target| Request::Attach(Attach { target, size: None });
    let mut client = open(&host, &attach(Target::New(program))).await;
    let Response::Attached { session, .. } = hear(&mut client).await else { panic!() };
    assert_eq!(next(&mut client).await, Ok((FrameKind::Stdout, b"before\r\n".to_vec())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tunnel = open(&host, &Request::Tunnel { port }).await;
    assert_eq!(hear(&mut tunnel).await, Response::Done);
    let (mut socket, _) = listener.accept().await.unwrap();
    tunnel.send_data(FrameKind::Data, b"to nobody").await.unwrap();
    let watch = Request::Watch { path: "/etc".to_owned(), recursive: true };
    let mut watch = open(&host, &watch).await;
    assert_eq!(hear(&mut watch).await, Response::Done);
    let mut activity = open(&host, &Request::ActivityWatch).await;
    assert!(matches!(hear(&mut activity).await, Response::Activity(_)));
    let write = FileWrite { path: "/up/file".to_owned(), ..FileWrite::default() };
    let write = open(&host, &Request::FileWrite(write)).await;
    let unpack = open(&host, &Request::Unpack { path: "/tree".to_owned(), owner: None }).await;
    let uploads = [flood(write, vec![b'x'; 500_000]), flood(unpack, beginning_of_an_archive())];
    let (up, tree) = (guest.path().join("up"), guest.path().join("tree"));
    until(&host, "uploads begin", || unfinished(&up) == 1 && unfinished(&tree) == 1).await;
    assert!(resting(&host, false).await.sessions[0].attached);
    let told = resting(&host, true).await;
    assert!(!told.sessions[0].attached && told.sessions[0].id == session.id);
    assert!(told.ports.iter().any(|told| told.port == port));
    line.cut().await;

    let host = guest.owned().await;
    let agent = &guest.agent;
    let idle = || {
        let Activity { running, attached, tunnels, keep_awake, .. } = agent.activity();
        (running, attached, tunnels, keep_awake) == (0, 0, 0, 0)
    };
    until(&host, "something is counted", idle).await;
    until(&host, "uploads stay", || unfinished(&up) == 0 && unfinished(&tree) == 0).await;
    let free = || {
        let all = [&agent.file_operations, &agent.watches, &agent.archives];
        all.map(tokio::sync::Semaphore::available_permits)
            == [FILE_OPERATIONS_MAX, WATCHES_MAX, ARCHIVES_MAX]
    };
    until(&host, "places are taken", free).await;
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.unwrap();
    assert!(end.is_err(), "a connection that was cut off looks complete: {rest:?}");
    for upload in uploads {
        timeout(PATIENCE, upload).await.unwrap().unwrap();
    }
    let target = Target::Session { id: session.id.clone(), if_detached: true };
    let mut client = open(&host, &attach(target)).await;
    assert!(matches!(hear(&mut client).await, Response::Attached { replay: 8, .. }));
    assert_eq!(next(&mut client).await, Ok((FrameKind::Stdout, b"before\r\n".to_vec())));
    let kill = Request::Kill { id: session.id, signal: 9 };
    assert_eq!(ask(&host, &kill).await, Response::Done);
}
