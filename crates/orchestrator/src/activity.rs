//! What keeps a sandbox awake, as far as it goes through this daemon, and how much of each kind may
//! go on at once. Every operation holds a [`Busy`] from before its sandbox is woken until it has
//! ended, so nothing has to be asked of the guest, and a sandbox never looks idle in between.
//!
//! ```text
//! begin ──► starting ── begun ──► under way ── drop
//!   └─ waits ─► (the driver) ─ enter ─┘
//! ```
//! Invariant: an operation is counted before it looks for a session, so whoever shuts the way to
//! the session first and counts then sees every operation that came through.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{Error, Kind, Result};

/// How long what may be short, such as a command or a proxied request, may take to end by itself
/// after its first answer before a stop goes ahead, so that it is not cut off by one that comes at
/// that moment.
const MOMENT: Duration = Duration::from_secs(1);

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A command that somebody waits for.
    Command,
    /// A client of a session or of a job's output.
    Attachment,
    /// A connection to a port.
    Tunnel,
    /// A file operation.
    File,
    /// Waiting for changes of files.
    Watch,
    /// A question that takes no time worth mentioning, such as a list of jobs.
    Control,
}

impl Work {
    const ALL: [Self; 6] =
        [Self::Command, Self::Attachment, Self::Tunnel, Self::File, Self::Watch, Self::Control];

    /// Most operations of the kind at once. One kind at its limit leaves room for every other: all
    /// together stay below what a session with the agent can have open.
    pub(crate) const fn limit(self) -> u32 {
        match self {
            Self::Command => 1000,
            Self::Attachment => 64,
            Self::Tunnel => 256,
            Self::File => 64,
            Self::Watch => 32,
            Self::Control => 64,
        }
    }

    /// Whether it counts as activity. Looking at a sandbox must not keep it from falling asleep.
    fn counts(self) -> bool {
        self != Self::Control
    }

    /// Whether it often is over in no time.
    fn may_be_short(self) -> bool {
        matches!(self, Self::Command | Self::Tunnel | Self::File)
    }

    /// What there is too much of, in words.
    fn words(self) -> &'static str {
        match self {
            Self::Command => "commands",
            Self::Attachment => "attached clients",
            Self::Tunnel => "connections to ports",
            Self::File => "file operations",
            Self::Watch => "watches of files",
            Self::Control => "requests",
        }
    }
}

/// What is going on now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActivityView {
    /// Commands that somebody waits for.
    pub running: u32,
    /// Clients of sessions and of jobs' output.
    pub attached: u32,
    /// Open connections to ports.
    pub tunnels: u32,
    /// File operations, watches included.
    pub files: u32,
    /// Detached jobs that keep the sandbox awake.
    pub jobs: u32,
    /// How long there has been nothing; zero while there is something.
    pub idle: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Activity {
    counts: [AtomicU32; Work::ALL.len()],
    /// Detached jobs that keep the sandbox awake, as the guest told last.
    jobs: AtomicU32,
    /// Operations that have a session and no answer yet.
    starting: AtomicU32,
    /// Operations that may be short, have been answered and go on.
    answered: AtomicU32,
    /// When something that counts began or ended last.
    last: Mutex<Instant>,
    /// When one of these was answered last.
    fresh: Mutex<Instant>,
    /// Goes up whenever something ends or is answered, so that whoever decides about idleness
    /// waits instead of looking.
    changes: watch::Sender<u64>,
}

/// Held while something is going on.
#[derive(Debug)]
pub(crate) struct Busy {
    activity: Arc<Activity>,
    work: Work,
    starting: Option<Starting>,
    answered: bool,
}

/// Held from before an operation has a session until the guest has answered it.
#[derive(Debug)]
pub(crate) struct Starting {
    activity: Arc<Activity>,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            counts: Default::default(),
            jobs: AtomicU32::new(0),
            starting: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            last: Mutex::new(now),
            fresh: Mutex::new(now),
            changes: watch::Sender::new(0),
        })
    }

    /// Counts an operation until the answer is dropped. It may look for a session now.
    ///
    /// # Errors
    /// There are as many of the kind as there may be.
    pub(crate) fn begin(self: &Arc<Self>, work: Work) -> Result<Busy> {
        let limit = work.limit();
        let more = |count: u32| (count < limit).then_some(count + 1);
        let begun = self.count(work).fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        if begun.is_err() {
            let message = format!("{limit} {} are under way in this sandbox already", work.words());
            return Err(Error::new(Kind::GuestLimit, message).hint("wait until some have ended"));
        }
        if work.counts() {
            self.touch();
        }
        let starting = Some(self.start());
        Ok(Busy { activity: Arc::clone(self), work, starting, answered: false })
    }

    /// Counts an operation that is about to get a session.
    pub(crate) fn start(self: &Arc<Self>) -> Starting {
        self.starting.fetch_add(1, Ordering::SeqCst);
        Starting { activity: Arc::clone(self) }
    }

    /// Notes how many detached jobs keep the sandbox awake.
    pub(crate) fn set_jobs(&self, jobs: u32) {
        // First, so that it never looks as if there had been nothing for long.
        if self.jobs.load(Ordering::SeqCst) != jobs {
            self.touch();
        }
        if self.jobs.swap(jobs, Ordering::SeqCst) != jobs {
            self.changed();
        }
    }

    /// Idleness counts from now.
    pub(crate) fn touch(&self) {
        *lock(&self.last) = Instant::now();
    }

    pub(crate) fn view(&self) -> ActivityView {
        let count = |work| self.count(work).load(Ordering::SeqCst);
        let view = ActivityView {
            running: count(Work::Command),
            attached: count(Work::Attachment),
            tunnels: count(Work::Tunnel),
            files: count(Work::File) + count(Work::Watch),
            jobs: self.jobs.load(Ordering::SeqCst),
            idle: Duration::ZERO,
        };
        ActivityView { idle: self.idle().unwrap_or_default(), ..view }
    }

    /// How long there has been nothing that counts; `None` while there is something.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let busy = |work: &Work| work.counts() && self.count(*work).load(Ordering::SeqCst) > 0;
        if Work::ALL.iter().any(busy) || self.jobs.load(Ordering::SeqCst) > 0 {
            return None;
        }
        Some(lock(&self.last).elapsed())
    }

    /// Whether there is nothing at all, not even a question.
    pub(crate) fn is_quiet(&self) -> bool {
        let none = |work: &Work| self.count(*work).load(Ordering::SeqCst) == 0;
        Work::ALL.iter().all(none) && self.jobs.load(Ordering::SeqCst) == 0
    }

    /// Waits until every operation that has a session has been answered, and what is short has had
    /// a moment to end.
    pub(crate) async fn settled(&self) {
        let mut changes = self.subscribe();
        loop {
            changes.borrow_and_update();
            let starting = self.starting.load(Ordering::SeqCst) > 0;
            let ends = *lock(&self.fresh) + MOMENT;
            if starting {
                let _ = changes.changed().await;
            } else if self.answered.load(Ordering::SeqCst) == 0
                || timeout_at(ends, changes.changed()).await.is_err()
            {
                return;
            }
        }
    }

    /// Changes whenever something ends or is answered.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn count(&self, work: Work) -> &AtomicU32 {
        &self.counts[work as usize]
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

fn lock(at: &Mutex<Instant>) -> MutexGuard<'_, Instant> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Busy {
    /// There is no session: the operation waits for the driver, which must not wait for it.
    pub(crate) fn waits(&mut self) {
        self.starting = None;
    }

    /// The driver has given a session.
    pub(crate) fn enters(&mut self, starting: Starting) {
        self.starting = Some(starting);
    }

    /// The guest has answered for the first time.
    pub(crate) fn begun(&mut self) {
        if self.work.may_be_short() && !self.answered {
            self.answered = true;
            *lock(&self.activity.fresh) = Instant::now();
            self.activity.answered.fetch_add(1, Ordering::SeqCst);
        }
        self.starting = None;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.activity.starting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.activity.changed();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.activity;
        // First, so that it never looks as if there had been nothing for long.
        if self.work.counts() {
            activity.touch();
        }
        if self.answered {
            activity.answered.fetch_sub(1, Ordering::SeqCst);
        }
        activity.count(self.work).fetch_sub(1, Ordering::SeqCst);
        activity.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_counted_until_it_ends() {
        let activity = Activity::new();
        let command = activity.begin(Work::Command).unwrap();
        let watch = activity.begin(Work::Watch).unwrap();
        let view = activity.view();
        assert_eq!((view.running, view.files, view.idle), (1, 1, Duration::ZERO));
        drop((command, watch));
        activity.set_jobs(1);
        assert_eq!(activity.view(), ActivityView { jobs: 1, ..ActivityView::default() });
        activity.set_jobs(0);
        let idle = activity.view().idle;
        assert!(idle > Duration::ZERO);
        drop(activity.begin(Work::Control).unwrap());
        assert!(activity.view().idle >= idle, "looking at it is not activity");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_something_long_is_not_the_end_of_a_long_silence() {
        let activity = Activity::new();
        let command = activity.begin(Work::Command).unwrap();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(activity.idle(), None);
        drop(command);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
        activity.set_jobs(1);
        tokio::time::advance(Duration::from_secs(3600)).await;
        activity.set_jobs(1);
        activity.set_jobs(0);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(5)).await;
        let question = activity.begin(Work::Control).unwrap();
        assert_eq!(activity.idle(), Some(Duration::from_secs(5)), "looking is not activity");
        assert!(!activity.is_quiet(), "but it is something");
        drop(question);
        assert!(activity.is_quiet());
    }

    /// Whether it has settled after so long.
    async fn settles(activity: &Activity, within: Duration) -> bool {
        tokio::time::timeout(within, activity.settled()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_answers_and_for_what_is_short_a_moment() {
        let (activity, instant) = (Activity::new(), Duration::from_millis(1));
        assert!(settles(&activity, instant).await);
        let mut shell = activity.begin(Work::Attachment).unwrap();
        assert!(!settles(&activity, MOMENT * 3).await, "it has not been answered");
        shell.begun();
        assert!(settles(&activity, instant).await, "shells are long");
        let mut command = activity.begin(Work::Command).unwrap();
        command.waits();
        assert!(settles(&activity, instant).await, "it waits for whoever waits for it");
        command.enters(activity.start());
        assert!(!settles(&activity, MOMENT * 3).await);
        command.begun();
        assert!(!settles(&activity, MOMENT / 2).await, "it may be over in no time");
        assert!(settles(&activity, MOMENT).await, "or not");
        let mut next = activity.begin(Work::File).unwrap();
        next.begun();
        let ends = async {
            tokio::time::advance(MOMENT / 4).await;
            drop((command, next));
        };
        let (settled, ()) = tokio::join!(settles(&activity, MOMENT / 2), ends);
        assert!(settled);
        drop(activity.begin(Work::Command).unwrap());
        assert!(settles(&activity, instant).await, "given up");
    }

    #[test]
    fn a_kind_at_its_limit_leaves_room_for_the_others() {
        let activity = Activity::new();
        let commands: Vec<Busy> =
            (0..Work::Command.limit()).map(|_| activity.begin(Work::Command).unwrap()).collect();
        assert_eq!(activity.begin(Work::Command).unwrap_err().kind, Kind::GuestLimit);
        for work in Work::ALL.into_iter().filter(|work| *work != Work::Command) {
            activity.begin(work).unwrap();
        }
        drop(commands);
        activity.begin(Work::Command).unwrap();
        let all: u32 = Work::ALL.into_iter().map(Work::limit).sum();
        assert!((all as usize) < proto::mux::STREAMS_MAX);
    }
}
