use std::{sync::Weak, time::Duration};

use base::ids::UserId;
use proto::{
    frame::FrameKind,
    message::{self, Attach, Detach, Exec, NewSession, Request, Response, Target},
    mux::Stream,
};
use tokio::time::timeout;

use super::*;
use crate::{
    guest::testing::{FakeAgent, published},
    model::{Status, Thermal},
    testing::record,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox whose driver is the test.
fn sandbox(
    session: Option<Session>,
) -> (Sandbox, mpsc::Receiver<Command>, watch::Sender<Published>) {
    let record = record(&UserId::random(), "box");
    let activity = Activity::new();
    let awake = Awake::new(Arc::clone(&activity));
    let (commands, asked) = mpsc::channel(4);
    let (publish, published) = watch::channel(published(Status::Running, session));
    let rules = Rules::plain(record.owner.clone());
    let node = Weak::new();
    let shared = Shared { node, record, ip: None, rules, commands, published, activity, awake };
    (Sandbox { shared: Arc::new(shared) }, asked, publish)
}

fn exec() -> Exec {
    Exec { argv: vec!["true".to_owned()], ..Exec::default() }
}

fn attach() -> Attach {
    Attach { target: Target::New(NewSession::default()), size: None }
}

fn counts(sandbox: &Sandbox) -> [u32; 5] {
    let ActivityView { running, attached, tunnels, files, jobs, .. } = sandbox.activity();
    [running, attached, tunnels, files, jobs]
}

#[tokio::test]
async fn an_operation_that_fails_or_is_given_up_before_it_began_is_not_counted() {
    let (sandbox, mut asked, _publish) = sandbox(None);
    // Counted while it waits for the sandbox to wake.
    let mut waiting = Box::pin(sandbox.exec(exec()));
    let mut client = Box::pin(sandbox.attach(attach()));
    timeout(Duration::from_millis(20), async { tokio::join!(&mut waiting, &mut client) })
        .await
        .unwrap_err();
    assert_eq!(counts(&sandbox), [1, 1, 0, 0, 0]);
    drop((waiting, client));
    assert_eq!(counts(&sandbox), [0; 5], "given up");
    for _ in 0..2 {
        drop(asked.recv().await.unwrap());
    }
    let refuse = async {
        let Some(Command::Wake { reply, .. }) = asked.recv().await else { panic!() };
        let _ = reply.send(Err(Error::new(Kind::SandboxFailed, "it has failed")));
    };
    let (refused, ()) = tokio::join!(sandbox.exec(exec()), refuse);
    assert_eq!(refused.unwrap_err().kind, Kind::SandboxFailed);
    assert_eq!(counts(&sandbox), [0; 5], "refused");
    drop(asked);
    assert_eq!(sandbox.jobs().await.unwrap_err().kind, Kind::SandboxNotFound);
    assert_eq!(sandbox.exec(Exec::default()).await.unwrap_err().kind, Kind::CommandMissing);
    assert_eq!(counts(&sandbox), [0; 5]);
}

#[tokio::test]
async fn a_command_counts_until_it_is_dropped_and_not_if_the_guest_refuses_it() {
    let agent = FakeAgent::new(async |request, mut stream: Stream| {
        let Request::Exec(exec) = request else { panic!() };
        let answer = if exec.stdin {
            let message = "there are too many".to_owned();
            Response::Error(message::WireError { code: message::ErrorCode::Limit, message })
        } else {
            Response::Started { pid: 1, job: "j1".to_owned() }
        };
        stream.send_json(&answer).await.unwrap();
        while let Ok(Some(_)) = stream.recv().await {}
    })
    .await;
    let (sandbox, _asked, _publish) = sandbox(Some(agent.session.clone()));
    let running = sandbox.exec(exec()).await.unwrap();
    assert_eq!(counts(&sandbox), [1, 0, 0, 0, 0]);
    let refused = sandbox.exec(Exec { stdin: true, ..exec() }).await.unwrap_err();
    assert_eq!(refused.kind, Kind::GuestLimit);
    assert_eq!(counts(&sandbox), [1, 0, 0, 0, 0]);
    drop(running);
    assert_eq!(counts(&sandbox), [0; 5]);
}

#[tokio::test]
async fn only_a_job_that_asks_for_it_keeps_the_sandbox_awake() {
    let jobs = watch::Sender::new(0);
    let agent = FakeAgent::new(move |request, mut stream: Stream| {
        let jobs = jobs.clone();
        async move {
            match request {
                Request::ActivityWatch => {
                    let mut told = jobs.subscribe();
                    loop {
                        let keep_awake = *told.borrow_and_update();
                        let now = message::Activity { keep_awake, ..Default::default() };
                        stream.send_json(&Response::Activity(now)).await.unwrap();
                        told.changed().await.unwrap();
                    }
                }
                Request::Exec(Exec { detach: Some(Detach { keep_awake, .. }), .. }) => {
                    jobs.send_modify(|jobs| *jobs += u32::from(keep_awake));
                    let started = Response::Started { pid: 1, job: "j1".to_owned() };
                    stream.send_json(&started).await.unwrap();
                }
                Request::JobOutput(wanted) => {
                    stream.send_json(&Response::JobOutput { start: wanted.offset }).await.unwrap();
                    stream.send_data(FrameKind::Stdout, b"x").await.unwrap();
                    while let Ok(Some(_)) = stream.recv().await {}
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    let (sandbox, _asked, _publish) = sandbox(Some(agent.session.clone()));
    let job = |keep_awake| Exec { detach: Some(Detach { keep_awake, output_max: None }), ..exec() };
    assert_eq!(sandbox.start_job(job(false)).await.unwrap().job, "j1");
    assert_eq!(counts(&sandbox), [0; 5]);
    sandbox.start_job(job(true)).await.unwrap();
    let mut changes = sandbox.shared.activity.subscribe();
    let awake = async {
        while counts(&sandbox) != [0, 0, 0, 0, 1] {
            changes.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, awake).await.unwrap();
    assert_eq!(sandbox.view().activity.idle, Duration::ZERO);

    // Looking at its output does not count, following it does.
    let output = |follow| message::JobOutput { job: "j1".to_owned(), offset: 0, follow };
    let look = sandbox.job_output(output(false)).await.unwrap();
    assert_eq!(counts(&sandbox), [0, 0, 0, 0, 1]);
    let follow = sandbox.job_output(output(true)).await.unwrap();
    assert_eq!(counts(&sandbox), [0, 1, 0, 0, 1]);
    drop((look, follow));
    assert_eq!(counts(&sandbox), [0, 0, 0, 0, 1]);
}

fn resting() -> Resting {
    let jobs = ["j1", "j2"].map(|id| message::JobInfo {
        id: id.to_owned(),
        argv: vec!["make".to_owned()],
        pid: 7,
        state: message::JobState::Running,
        keep_awake: false,
        started_at: 3,
        output_start: 0,
        output_end: 9,
    });
    let port = message::PortInfo { port: 80, address: "::".to_owned(), pid: None, process: None };
    Resting { sessions: Vec::new(), jobs: jobs.into(), ports: vec![port] }
}

#[tokio::test]
async fn questions_to_a_sandbox_that_sleeps_are_answered_from_what_it_said_last() {
    let (sandbox, mut asked, publish) = sandbox(None);
    for thermal in [Thermal::Warm, Thermal::Cold] {
        publish.send_modify(|published| {
            published.thermal = Some(thermal);
            published.resting = Some(Arc::new(resting()));
        });
        assert_eq!(sandbox.jobs().await.unwrap(), resting().jobs);
        assert_eq!(sandbox.ports().await.unwrap(), resting().ports);
        assert_eq!(sandbox.sessions().await.unwrap(), []);
        assert_eq!(sandbox.job("j2").await.unwrap(), resting().jobs[1]);
        let unknown = sandbox.job("j3").await.unwrap_err();
        assert_eq!(unknown.kind, Kind::JobNotFound);
        publish.send_modify(|published| published.resting = None);
        for unknown in [
            sandbox.jobs().await.map(drop),
            sandbox.ports().await.map(drop),
            sandbox.sessions().await.map(drop),
            sandbox.job("j1").await.map(drop),
        ] {
            let error = unknown.unwrap_err();
            assert_eq!(error.kind, Kind::WrongState);
            assert_eq!(error.hint.unwrap(), "wake it: bhatti start box");
        }
    }
    assert!(asked.try_recv().is_err(), "it was woken");

    // On its way to sleep: it is not known yet what there will be to tell.
    publish.send_modify(|published| published.closing = true);
    let falls_asleep = async {
        let Some(Command::Look(reply)) = asked.recv().await else { panic!() };
        publish.send_modify(|published| {
            published.closing = false;
            published.resting = Some(Arc::new(resting()));
        });
        let _ = reply.send(Ok(None));
    };
    let (jobs, ()) = tokio::join!(sandbox.jobs(), falls_asleep);
    assert_eq!(jobs.unwrap(), resting().jobs);
    assert!(sandbox.counted().is_quiet());
}

#[tokio::test]
async fn who_calls_is_told_to_the_driver() {
    let (sandbox, mut asked, _publish) = sandbox(None);
    for caller in [Caller::Owner, Caller::Public] {
        let refuse = async {
            let Some(Command::Wake { caller, reply }) = asked.recv().await else { panic!() };
            let _ = reply.send(Err(Error::new(Kind::WrongState, "no")));
            caller
        };
        let (refused, told) = tokio::join!(sandbox.tunnel(caller, 80), refuse);
        assert_eq!((refused.unwrap_err().kind, told), (Kind::WrongState, caller));
    }
}
