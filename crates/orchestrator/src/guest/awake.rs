//! Detached jobs that keep the sandbox awake: one stream a session tells how many there are. There
//! is none while nobody has asked for such a job.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::{
    message::{Request, Response},
    mux::{Session, Stream},
};
use tokio::task::AbortHandle;

use super::{answer, ask, unexpected};
use crate::{Result, activity::Activity};

/// Watches the jobs of one sandbox, session by session.
#[derive(Debug)]
pub(crate) struct Awake {
    activity: Arc<Activity>,
    current: Mutex<Option<Watching>>,
}

/// The stream that is read now.
#[derive(Debug)]
struct Watching {
    /// The nonce of the session that it belongs to.
    of: [u8; 32],
    task: AbortHandle,
}

impl Awake {
    pub(crate) fn new(activity: Arc<Activity>) -> Arc<Self> {
        Arc::new(Self { activity, current: Mutex::new(None) })
    }

    /// What a session began with. From now on the number follows the guest.
    pub(crate) fn met(self: &Arc<Self>, session: &Session, jobs: u32) {
        if jobs == 0 {
            return;
        }
        self.activity.set_jobs(jobs);
        let (awake, session) = (Arc::clone(self), session.clone());
        // Not waited for: whoever wakes a sandbox does not wait for its jobs.
        tokio::spawn(async move {
            if let Err(error) = awake.watch(&session).await {
                tracing::debug!(error = base::chain(&error), "jobs cannot be watched");
                awake.lost(&session);
            }
        });
    }

    /// Returns once changes are heard. At once if they are already.
    pub(crate) async fn watch(self: &Arc<Self>, session: &Session) -> Result<()> {
        if self.watches(session) {
            return Ok(());
        }
        let (stream, first) = ask(session, &Request::ActivityWatch).await?;
        let Response::Activity(first) = first else { return Err(unexpected(&first)) };
        let mut current = self.current();
        if current.as_ref().is_some_and(|now| now.is_of(session)) || session.is_closed() {
            return Ok(());
        }
        self.activity.set_jobs(first.keep_awake);
        let (awake, session) = (Arc::clone(self), session.clone());
        let of = *session.own_nonce();
        let task = tokio::spawn(async move {
            awake.follow(stream).await;
            awake.lost(&session);
        });
        let before = current.replace(Watching { of, task: task.abort_handle() });
        if let Some(before) = before {
            before.task.abort();
        }
        Ok(())
    }

    async fn follow(&self, mut stream: Stream) {
        while let Ok(Response::Activity(now)) = answer(&mut stream).await {
            self.activity.set_jobs(now.keep_awake);
        }
    }

    /// Nothing is known of the jobs any more, unless another session knows.
    fn lost(&self, session: &Session) {
        let mut current = self.current();
        if current.as_ref().is_none_or(|now| now.of == *session.own_nonce()) {
            *current = None;
            self.activity.set_jobs(0);
        }
    }

    fn watches(&self, session: &Session) -> bool {
        self.current().as_ref().is_some_and(|now| now.is_of(session))
    }

    fn current(&self) -> MutexGuard<'_, Option<Watching>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching {
    fn is_of(&self, session: &Session) -> bool {
        self.of == *session.own_nonce() && !self.task.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proto::message;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::guest::testing::FakeAgent;

    /// An agent whose number of jobs is what the sender says; counts the streams.
    async fn agent(jobs: watch::Receiver<u32>, streams: Arc<AtomicU32>) -> FakeAgent {
        FakeAgent::new(move |request, mut stream: Stream| {
            assert_eq!(request, Request::ActivityWatch);
            streams.fetch_add(1, Ordering::Relaxed);
            let mut jobs = jobs.clone();
            async move {
                loop {
                    let keep_awake = *jobs.borrow_and_update();
                    let now = message::Activity { keep_awake, ..message::Activity::default() };
                    stream.send_json(&Response::Activity(now)).await.unwrap();
                    if jobs.changed().await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    async fn until(activity: &Activity, jobs: u32) {
        let mut changes = activity.subscribe();
        let reached = async {
            while activity.view().jobs != jobs {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.unwrap();
    }

    #[tokio::test]
    async fn the_number_follows_the_guest_and_is_zero_without_one() {
        let (activity, streams) = (Activity::new(), Arc::new(AtomicU32::new(0)));
        let awake = Awake::new(Arc::clone(&activity));
        let (jobs, told) = watch::channel(2);
        let first = agent(told.clone(), Arc::clone(&streams)).await;
        awake.met(&first.session, 0);
        assert_eq!(streams.load(Ordering::Relaxed), 0, "nobody has asked for such a job");
        awake.met(&first.session, 2);
        assert_eq!(activity.view().jobs, 2, "at once");
        awake.watch(&first.session).await.unwrap();
        awake.watch(&first.session).await.unwrap();
        jobs.send_replace(3);
        until(&activity, 3).await;
        jobs.send_replace(0);
        until(&activity, 0).await;
        jobs.send_replace(1);
        until(&activity, 1).await;
        first.hang_up().await;
        until(&activity, 0).await;
        awake.watch(&first.session).await.unwrap_err();

        let before = streams.load(Ordering::Relaxed);
        let second = agent(told, Arc::clone(&streams)).await;
        awake.met(&second.session, 1);
        awake.lost(&first.session);
        awake.watch(&second.session).await.unwrap();
        until(&activity, 1).await;
        assert!(streams.load(Ordering::Relaxed) > before);
    }

    #[tokio::test]
    async fn an_agent_that_cannot_tell_counts_as_idle() {
        let activity = Activity::new();
        let awake = Awake::new(Arc::clone(&activity));
        let (asked, mut heard) = mpsc::channel(1);
        let agent = FakeAgent::new(move |_, stream: Stream| {
            let asked = asked.clone();
            async move {
                drop(stream);
                asked.send(()).await.unwrap();
            }
        })
        .await;
        awake.met(&agent.session, 4);
        heard.recv().await.unwrap();
        until(&activity, 0).await;
    }
}
