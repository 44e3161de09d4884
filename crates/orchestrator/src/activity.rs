//! What keeps a sandbox awake, as far as it goes through this daemon, and how much of each kind may
//! go on at once. Every operation holds a [`Busy`] from before its sandbox is woken until it has
//! ended, so nothing has to be asked of the guest, and a sandbox never looks idle in between.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{Error, Kind, Result};

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
    last: Mutex<Instant>,
    /// Goes up whenever something begins or ends, so that whoever decides about idleness waits
    /// instead of looking.
    changes: watch::Sender<u64>,
}

/// Held while something is going on.
#[derive(Debug)]
pub(crate) struct Busy {
    activity: Arc<Activity>,
    work: Work,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: Default::default(),
            jobs: AtomicU32::new(0),
            last: Mutex::new(Instant::now()),
            changes: watch::Sender::new(0),
        })
    }

    /// Counts an operation until the answer is dropped.
    ///
    /// # Errors
    /// There are as many of the kind as there may be.
    pub(crate) fn begin(self: &Arc<Self>, work: Work) -> Result<Busy> {
        let limit = work.limit();
        let more = |count: u32| (count < limit).then_some(count + 1);
        let begun = self.count(work).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if begun.is_err() {
            let message = format!("{limit} {} are under way in this sandbox already", work.words());
            return Err(Error::new(Kind::GuestLimit, message).hint("wait until some have ended"));
        }
        if work.counts() {
            self.changed();
        }
        Ok(Busy { activity: Arc::clone(self), work })
    }

    /// Notes how many detached jobs keep the sandbox awake.
    pub(crate) fn set_jobs(&self, jobs: u32) {
        if self.jobs.swap(jobs, Ordering::Relaxed) != jobs {
            self.changed();
        }
    }

    pub(crate) fn view(&self) -> ActivityView {
        let count = |work| self.count(work).load(Ordering::Relaxed);
        let view = ActivityView {
            running: count(Work::Command),
            attached: count(Work::Attachment),
            tunnels: count(Work::Tunnel),
            files: count(Work::File) + count(Work::Watch),
            jobs: self.jobs.load(Ordering::Relaxed),
            idle: Duration::ZERO,
        };
        let ActivityView { running, attached, tunnels, files, jobs, .. } = view;
        if running + attached + tunnels + files + jobs > 0 {
            return view;
        }
        ActivityView { idle: self.last().elapsed(), ..view }
    }

    /// Changes whenever something that counts begins or ends.
    #[cfg(test)]
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn count(&self, work: Work) -> &AtomicU32 {
        &self.counts[work as usize]
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        *self.last() = Instant::now();
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.count(self.work).fetch_sub(1, Ordering::Relaxed);
        if self.work.counts() {
            self.activity.changed();
        }
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
