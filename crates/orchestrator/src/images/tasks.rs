//! What goes on by itself and can be looked at meanwhile.
//!
//! Tasks live in memory: what one leaves behind when the daemon dies is removed at the next start, and
//! nobody has to be told of it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use base::{
    clock,
    ids::{TaskId, UserId},
};
use tokio::sync::{Notify, watch};

use super::ImageView;
use crate::{Error, Kind, Result};

/// How long a task that has ended can be looked at, seconds.
const KEPT_SECONDS: i64 = 24 * 60 * 60;

/// Most tasks that are remembered; those that have ended longest ago go first.
const KEPT: usize = 1000;

const MB: u64 = 1 << 20;

/// How far something is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What is being done, a lower-case phrase.
    pub what: String,
    /// How much of it is done, bytes.
    pub done: u64,
    /// How much there is, if it is known, bytes.
    pub total: Option<u64>,
}

impl Step {
    /// All of it in one phrase.
    pub fn shown(&self) -> String {
        let Self { what, done, total } = self;
        match total {
            Some(total) => format!("{what}, {} of {} MB", done.div_ceil(MB), total.div_ceil(MB)),
            None => what.clone(),
        }
    }
}

/// What came of a task.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The image that was wanted.
    Completed(ImageView),
    /// It failed.
    Failed(Arc<Error>),
    /// Somebody cancelled it.
    Cancelled,
}

/// A task as it is now.
#[derive(Debug, Clone, Default)]
pub struct TaskState {
    /// What it is doing, or did last.
    pub step: Step,
    /// What came of it and when, Unix seconds; absent while it goes on.
    pub ended: Option<(Outcome, i64)>,
}

/// Something that goes on by itself. Cheap to clone; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Task(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: TaskId,
    owner: UserId,
    created_at: i64,
    state: watch::Sender<TaskState>,
    cancel: Notify,
}

impl Task {
    /// Its id.
    pub fn id(&self) -> &TaskId {
        &self.0.id
    }

    /// When it began, Unix seconds.
    pub fn created_at(&self) -> i64 {
        self.0.created_at
    }

    /// What it is doing, now and as it changes.
    pub fn watch(&self) -> watch::Receiver<TaskState> {
        self.0.state.subscribe()
    }

    /// Ends it; one that has ended is left as it is.
    pub fn cancel(&self) {
        self.0.cancel.notify_one();
    }

    /// Waits for what comes of it, and tells the steps meanwhile.
    ///
    /// # Errors
    /// What it failed with; [`Kind::Cancelled`].
    pub async fn outcome(&self, mut tell: impl FnMut(&Step)) -> Result<ImageView> {
        let mut watch = self.watch();
        loop {
            let now = watch.borrow_and_update().clone();
            match now.ended {
                None => tell(&now.step),
                Some((outcome, _)) => return outcome.into(),
            }
            if watch.changed().await.is_err() {
                return Err(Error::new(Kind::Internal, "a task ended without a word"));
            }
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.0.state.borrow().ended.is_none()
    }

    /// Where whoever does the work says how far it is.
    pub(super) fn steps(&self) -> Steps {
        Steps(self.clone())
    }

    /// Does the work, to its end or until it is cancelled.
    pub(super) async fn run(&self, work: impl Future<Output = Result<ImageView>>) {
        let outcome = tokio::select! {
            biased;
            () = self.0.cancel.notified() => Outcome::Cancelled,
            done = work => match done {
                Ok(image) => Outcome::Completed(image),
                Err(error) => {
                    tracing::info!(task = %self.0.id, error = base::chain(&error), "a pull failed");
                    Outcome::Failed(Arc::new(error))
                }
            },
        };
        self.0.state.send_modify(|state| state.ended = Some((outcome, clock::unix_seconds())));
    }
}

impl From<Outcome> for Result<ImageView> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed(image) => Ok(image),
            Outcome::Failed(error) => Err(error.told_again()),
            Outcome::Cancelled => Err(Error::new(Kind::Cancelled, "somebody cancelled it")),
        }
    }
}

/// Where a task says how far it is. Cheap, never waits.
#[derive(Debug, Clone)]
pub(super) struct Steps(Task);

impl Steps {
    /// Says it.
    pub(super) fn say(&self, step: Step) {
        self.0.0.state.send_if_modified(|state| {
            let other = state.step != step;
            state.step = step;
            other
        });
    }
}

/// All tasks, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<VecDeque<Task>>);

impl Tasks {
    pub(super) fn begin(&self, owner: &UserId) -> Task {
        let task = Task(Arc::new(Shared {
            id: TaskId::random(),
            owner: owner.clone(),
            created_at: clock::unix_seconds(),
            state: watch::Sender::default(),
            cancel: Notify::new(),
        }));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::unix_seconds();
        all.retain(|task| task.ended_at().is_none_or(|at| now - at < KEPT_SECONDS));
        while all.len() >= KEPT
            && let Some(oldest) = all.iter().position(|task| !task.is_running())
        {
            all.remove(oldest);
        }
        all.push_back(task.clone());
        task
    }

    /// One of a user's.
    pub(super) fn find(&self, owner: &UserId, id: &str) -> Result<Task> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |task: &&Task| task.0.id.as_str() == id && task.0.owner == *owner;
        all.iter().find(own).cloned().ok_or_else(|| {
            let shown: String = id.chars().take(80).collect();
            Error::new(Kind::TaskNotFound, format!("there is no task {shown:?}"))
                .hint("tasks are forgotten a day after their end, and when the daemon restarts")
        })
    }
}

impl Task {
    fn ended_at(&self) -> Option<i64> {
        self.0.state.borrow().ended.as_ref().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn user() -> UserId {
        UserId::random()
    }

    fn step(what: &str) -> Step {
        Step { what: what.to_owned(), ..Step::default() }
    }

    #[tokio::test]
    async fn whoever_comes_hears_how_far_it_is_and_what_came_of_it() {
        let tasks = Tasks::default();
        let owner = user();
        let task = tasks.begin(&owner);
        task.steps().say(step("first"));
        let late = tasks.find(&owner, task.id().as_str()).unwrap();
        let mut heard = Vec::new();
        let failing = async {
            tokio::task::yield_now().await;
            task.steps().say(step("second"));
            tokio::task::yield_now().await;
            Err(Error::new(Kind::ImageNotFound, "none").hint("look"))
        };
        let (failed, ()) =
            tokio::join!(late.outcome(|s| heard.push(s.what.clone())), task.run(failing));
        let failed = failed.unwrap_err();
        assert_eq!((failed.kind, failed.hint.as_deref()), (Kind::ImageNotFound, Some("look")));
        assert_eq!(heard, ["first", "second"]);
        assert_eq!(late.outcome(|_| ()).await.unwrap_err().kind, Kind::ImageNotFound);
        assert!(!late.is_running());
        assert_eq!(tasks.find(&user(), late.id().as_str()).unwrap_err().kind, Kind::TaskNotFound);
    }

    #[tokio::test]
    async fn a_cancelled_task_ends_and_one_that_has_ended_is_left_as_it_is() {
        let tasks = Tasks::default();
        let task = tasks.begin(&user());
        task.cancel();
        task.run(pending()).await;
        assert_eq!(task.outcome(|_| ()).await.unwrap_err().kind, Kind::Cancelled);
        let task = tasks.begin(&user());
        task.run(async { Err(Error::new(Kind::ImageInvalid, "bad")) }).await;
        task.cancel();
        assert_eq!(task.outcome(|_| ()).await.unwrap_err().kind, Kind::ImageInvalid);
    }

    #[tokio::test]
    async fn so_many_are_remembered_and_none_that_goes_on_is_forgotten() {
        let tasks = Tasks::default();
        let owner = user();
        let going_on = tasks.begin(&owner);
        let first = tasks.begin(&owner);
        first.run(async { Err(Error::new(Kind::ImageInvalid, "bad")) }).await;
        for _ in 2..=KEPT {
            tasks.begin(&owner).run(async { Err(Error::new(Kind::ImageInvalid, "bad")) }).await;
        }
        assert!(tasks.find(&owner, going_on.id().as_str()).is_ok());
        assert!(tasks.find(&owner, first.id().as_str()).is_err());
        assert_eq!(tasks.0.lock().unwrap().len(), KEPT);
    }
}
