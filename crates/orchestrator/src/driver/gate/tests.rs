use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::ids::UserId;
use proto::message::{Request, Response};
use tokio::{sync::mpsc, task::JoinSet};

use super::*;
use crate::{
    Sandbox,
    driver::Command,
    guest::testing::{FakeAgent, published},
    model::Status,
    testing::record,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How often the sandbox falls asleep, or does not because something is under way.
const ROUNDS: u32 = 2000;

/// An agent that notes if it is asked something while it should be left alone.
async fn agent(asleep: Arc<AtomicBool>, disturbed: Arc<AtomicU32>) -> FakeAgent {
    FakeAgent::new(move |request, mut stream: proto::mux::Stream| {
        let (asleep, disturbed) = (Arc::clone(&asleep), Arc::clone(&disturbed));
        async move {
            assert_eq!(request, Request::Ports);
            disturbed.fetch_add(u32::from(asleep.load(Ordering::SeqCst)), Ordering::SeqCst);
            let _ = stream.send_json(&Response::Ports { ports: Vec::new() }).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_in_the_guest_while_it_sleeps_and_everybody_is_served() {
    let (asleep, disturbed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let agent = agent(Arc::clone(&asleep), Arc::clone(&disturbed)).await;
    let session = agent.session.clone();
    let (publish, watching) = watch::channel(published(Status::Running, Some(session.clone())));
    let (commands, mut asked) = mpsc::channel(64);
    let sandbox = Sandbox::without_driver(record(&UserId::random(), "box"), commands, watching);
    let activity = Arc::clone(sandbox.counted());

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (sandbox, stop) = (sandbox.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) || served == 0 {
                sandbox.ports().await.unwrap();
                served += 1;
                tokio::task::yield_now().await;
            }
            served
        });
    }
    let driving = async {
        let slept = drive(&publish, &activity, &session, &mut asked, &asleep).await;
        stop.store(true, Ordering::Relaxed);
        // Whoever came last.
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                serve(command, &session, &activity);
            }
        });
        slept
    };
    let slept = timeout(PATIENCE, driving).await.unwrap();
    let served: Vec<u32> = timeout(PATIENCE, clients.join_all()).await.unwrap();
    assert!(slept >= ROUNDS / 2, "{slept}");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
    assert_eq!(disturbed.load(Ordering::SeqCst), 0);
    assert!(sandbox.counted().is_quiet());
}

/// As a driver whose sandbox falls asleep whenever nothing is under way, by turns for its owner and
/// by itself. Says how often it slept.
async fn drive(
    publish: &watch::Sender<Published>,
    activity: &Arc<Activity>,
    session: &Session,
    asked: &mut mpsc::Receiver<Command>,
    asleep: &AtomicBool,
) -> u32 {
    let mut slept = 0;
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            shut(publish);
            activity.settled().await;
            slept += 1;
        } else if shut_if_quiet(publish, activity) {
            slept += 1;
        } else {
            publish.send_modify(|published| {
                (published.closing, published.session) = (false, Some(session.clone()));
            });
            tokio::task::yield_now().await;
            continue;
        }
        asleep.store(true, Ordering::SeqCst);
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        asleep.store(false, Ordering::SeqCst);
        publish.send_modify(|published| {
            (published.closing, published.session) = (false, Some(session.clone()));
        });
        while let Ok(command) = asked.try_recv() {
            serve(command, session, activity);
        }
    }
    slept
}

fn serve(command: Command, session: &Session, activity: &Arc<Activity>) {
    let Command::Look(reply) = command else { panic!("{command:?}") };
    let starting = Some(activity.start());
    let _ = reply.send(Ok(Some(Entry { session: session.clone(), starting })));
}
