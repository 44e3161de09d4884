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
            while !stop.load(Ordering::Relaxed) {
                sandbox.ports().await.unwrap();
                served += 1;
                tokio::task::yield_now().await;
            }
            served
        });
    }
    // The driver: sleeps whenever nothing is under way, by turns as the owner and by itself.
    let driving = async {
        let mut slept = 0;
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                shut(&publish);
                activity.settled().await;
                slept += 1;
            } else if shut_if_quiet(&publish, &activity) {
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
            let entry = |starting| Entry { session: session.clone(), starting: Some(starting) };
            publish.send_modify(|published| {
                (published.closing, published.session) = (false, Some(session.clone()));
            });
            while let Ok(command) = asked.try_recv() {
                match command {
                    Command::Look(reply) => {
                        drop(reply.send(Ok(Some(entry(activity.start())))));
                    }
                    Command::Wake { reply, .. } => {
                        drop(reply.send(Ok(entry(activity.start()))));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        // Whoever came last.
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                if let Command::Look(reply) = command {
                    let entry = Entry { session: session.clone(), starting: None };
                    drop(reply.send(Ok(Some(entry))));
                }
            }
        });
        slept
    };
    let slept = timeout(PATIENCE, driving).await.unwrap();
    let served: Vec<u32> = timeout(PATIENCE, clients.join_all()).await.unwrap();
    assert!(slept >= ROUNDS / 2, "{slept}");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
    assert_eq!(disturbed.load(Ordering::SeqCst), 0);
    assert!(activity.is_quiet());
}
