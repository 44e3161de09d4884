//! Detached jobs: commands that nobody waits for, whose output is kept.
//!
//! A job is started as one, or it is a command in the foreground whose host was lost. Its output is
//! in a [`log`] on the guest's disk, next to a [`meta`] file that says what it was and how it ended;
//! after a cold boot, a job without an end is lost.

mod foreground;
mod log;
mod meta;
mod output;
mod reader;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proto::frame::FrameKind;
use proto::message::{ErrorCode, Exited, JobInfo, JobState, WireError};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::Notify;

use self::foreground::Waiting;
pub(crate) use self::foreground::{Reserved, reserve};
use self::log::Log;
pub(crate) use self::meta::now;
use self::meta::{End, Meta};
pub(crate) use self::output::serve as serve_output;
use self::reader::{Reader, Step};
pub(crate) use self::run::{adopt, deadline, start};
use crate::agent::{Agent, lock, refuse};

/// Jobs that may run at once, those that a lost host has left behind not counted.
pub(crate) const JOBS_MAX: usize = 200;

/// Jobs that have ended and are remembered, with their output.
const ENDED_MAX: usize = 100;

/// Where the jobs are, below the guest's root.
pub(crate) const DIRECTORY: &str = "var/log/bhatti/jobs";

/// Keeps the highest number that was given, for when that job is removed.
const HIGHEST: &str = "highest";

/// All jobs of the guest.
#[derive(Debug)]
pub(crate) struct Jobs {
    directory: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The highest number given so far; unknown until the disk has been looked at.
    highest: Option<u64>,
    /// Whether the jobs of earlier agents are in `jobs`.
    loaded: bool,
    jobs: BTreeMap<u64, Arc<Job>>,
    foreground: BTreeMap<u64, Waiting>,
    /// Set when the guest is about to be turned off: jobs that end of it are lost.
    frozen: bool,
}

/// One job.
#[derive(Debug)]
struct Job {
    id: String,
    meta: Meta,
    /// The process that the agent started, if it did.
    leader: Option<Pid>,
    /// Told with all output, and with the end.
    changed: Notify,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    log: Log,
    state: JobState,
    /// Whether the meta file says what it should.
    noted: bool,
}

impl Jobs {
    /// The jobs of the guest whose root is at `root`. The disk is looked at when it is needed.
    pub(crate) fn at(root: &Path) -> Self {
        Self { directory: root.join(DIRECTORY), inner: Mutex::default() }
    }

    /// An id that no job has had.
    pub(crate) fn next_id(&self) -> String {
        let mut inner = lock(&self.inner);
        let highest = inner.highest.get_or_insert_with(|| highest(&self.directory));
        *highest += 1;
        format!("j{highest}")
    }

    /// Looks for the highest id that was given, unless it is known.
    pub(crate) fn count_on(&self) {
        lock(&self.inner).highest.get_or_insert_with(|| highest(&self.directory));
    }

    /// All jobs, oldest first.
    pub(crate) fn list(&self) -> Vec<JobInfo> {
        self.loaded(|inner| inner.jobs.values().map(|job| job.info()).collect())
    }

    /// As [`Jobs::list`] will be once the host is gone: with the commands in the foreground.
    pub(crate) fn list_without_host(&self) -> Vec<JobInfo> {
        self.loaded(|inner| {
            let foreground = inner.foreground.iter();
            let mut all: BTreeMap<u64, JobInfo> =
                foreground.map(|(number, command)| (*number, command.info(*number))).collect();
            all.extend(inner.jobs.iter().map(|(number, job)| (*number, job.info())));
            all.into_values().collect()
        })
    }

    /// Forgets a job that has ended, and its output.
    ///
    /// # Errors
    /// There is no such job, or it runs.
    pub(crate) fn remove(&self, id: &str) -> Result<(), WireError> {
        let job = self.find(id)?;
        if job.is_running() {
            return Err(refuse(ErrorCode::Invalid, format!("job {id} runs; kill it first")));
        }
        self.loaded(|inner| self.forget(inner, &job));
        Ok(())
    }

    /// Signals the process group of a job; one that has ended is left alone.
    ///
    /// # Errors
    /// There is no such job, or the kernel refuses.
    pub(crate) fn kill(&self, agent: &Agent, id: &str, signal: Signal) -> Result<(), WireError> {
        let job = self.find(id)?;
        let pid = job.leader.filter(|pid| agent.reaper.is_waited_for(*pid));
        match pid.filter(|_| job.is_running()).map(|pid| kill_process_group(pid, signal)) {
            None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
            Some(Err(errno)) => Err(refuse(ErrorCode::Failed, format!("signal job {id}: {errno}"))),
        }
    }

    /// From now on no end of a job is noted: the guest is being turned off.
    pub(crate) fn freeze(&self) {
        lock(&self.inner).frozen = true;
    }

    /// Writes what is in memory only.
    pub(crate) fn flush(&self) {
        for job in lock(&self.inner).jobs.values() {
            job.flush();
        }
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, WireError> {
        let found = self
            .loaded(|inner| number(id).and_then(|number| inner.jobs.get(&number)).map(Arc::clone));
        found.ok_or_else(|| refuse(ErrorCode::UnknownJob, format!("there is no job {id}")))
    }

    fn running(&self) -> usize {
        lock(&self.inner).jobs.values().filter(|job| job.is_running()).count()
    }

    fn add(&self, id: &str, meta: Meta, leader: Pid, keep: Option<u64>) -> Arc<Job> {
        let log = Log::new(self.directory.join(id), keep);
        let kept = Kept { log, state: JobState::Running, noted: false };
        let job = Arc::new(Job::new(id, meta, Some(leader), kept));
        job.note();
        if let Some(number) = number(id) {
            lock(&self.inner).jobs.insert(number, Arc::clone(&job));
        }
        job
    }

    /// Notes that `job` has ended, and forgets the oldest ones.
    fn end(&self, job: &Job, exited: Exited) {
        let frozen = lock(&self.inner).frozen;
        job.end(JobState::Exited { exited, at: now() }, !frozen);
        self.loaded(|inner| {
            let ended = inner.jobs.values().filter(|job| !job.is_running());
            let too_many = ended.clone().count().saturating_sub(ENDED_MAX);
            let oldest: Vec<_> = ended.take(too_many).map(Arc::clone).collect();
            for job in oldest {
                self.forget(inner, &job);
            }
        });
    }

    fn forget(&self, inner: &mut Inner, job: &Job) {
        let number = number(&job.id);
        if number.is_some() && number == inner.highest {
            // Best effort: a disk that is full loses only that no id comes twice after a boot.
            let _ = fs::write(self.directory.join(HIGHEST), job.id.trim_start_matches('j'));
        }
        inner.jobs.retain(|other, _| Some(*other) != number);
        lock(&job.kept).log.remove();
        job.changed.notify_waiters();
    }

    /// Does `what` once the jobs of earlier agents are known.
    fn loaded<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        if !inner.loaded {
            inner.loaded = true;
            for number in numbers(&self.directory) {
                let id = format!("j{number}");
                let directory = self.directory.join(&id);
                inner.jobs.entry(number).or_insert_with(|| Arc::new(Job::load(&id, directory)));
            }
        }
        what(&mut inner)
    }
}

impl Job {
    fn new(id: &str, meta: Meta, leader: Option<Pid>, kept: Kept) -> Self {
        Self { id: id.to_owned(), meta, leader, changed: Notify::new(), kept: Mutex::new(kept) }
    }

    /// A job of an earlier agent, as far as it can still be told.
    fn load(id: &str, directory: PathBuf) -> Self {
        let meta = Meta::read(&directory);
        let log = Log::load(directory, meta.end.as_ref().map(|end| end.output_end));
        let state = match meta.end.clone() {
            Some(End { exited, at, .. }) => JobState::Exited { exited, at },
            None => JobState::Lost,
        };
        Self::new(id, meta, None, Kept { log, state, noted: true })
    }

    fn info(&self) -> JobInfo {
        let kept = lock(&self.kept);
        JobInfo {
            id: self.id.clone(),
            argv: self.meta.argv.clone(),
            pid: self.meta.pid,
            started_at: self.meta.started_at,
            state: kept.state.clone(),
            output_start: kept.log.start(),
            output_end: kept.log.end(),
            keep_awake: self.meta.keep_awake,
        }
    }

    fn is_running(&self) -> bool {
        lock(&self.kept).state == JobState::Running
    }

    fn push(&self, kind: FrameKind, bytes: &[u8]) {
        lock(&self.kept).log.push(kind, bytes);
        self.changed.notify_waiters();
    }

    fn flush(&self) {
        lock(&self.kept).log.flush();
        self.note();
    }

    fn end(&self, state: JobState, note: bool) {
        {
            let mut kept = lock(&self.kept);
            kept.log.flush();
            kept.noted = !note;
            kept.state = state;
        }
        self.note();
        self.changed.notify_waiters();
    }

    /// Writes the meta file if that is to be done; a full disk leaves it for the next time.
    fn note(&self) {
        let mut kept = lock(&self.kept);
        if kept.noted {
            return;
        }
        let end = match &kept.state {
            JobState::Exited { exited, at } => {
                Some(End { exited: exited.clone(), at: *at, output_end: kept.log.end() })
            }
            JobState::Running | JobState::Lost => None,
        };
        let meta = Meta { end, ..self.meta.clone() };
        kept.noted = meta.write(kept.log.directory()).is_ok();
    }

    fn reader(&self, cursor: u64) -> Reader {
        Reader::at(&lock(&self.kept).log, cursor)
    }

    fn read(&self, reader: &mut Reader) -> Step {
        reader.step(&lock(&self.kept).log)
    }

    /// Whether `reader` has something to read or has had everything.
    fn has_news(&self, reader: &Reader) -> bool {
        let kept = lock(&self.kept);
        kept.state != JobState::Running || kept.log.end() > reader.cursor()
    }

    fn state(&self) -> JobState {
        lock(&self.kept).state.clone()
    }

    fn is_dirty(&self) -> bool {
        lock(&self.kept).log.is_dirty()
    }
}

/// The number in a job's id.
fn number(id: &str) -> Option<u64> {
    let digits = id.strip_prefix('j')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok()).flatten()
}

/// The jobs that are on the disk.
fn numbers(directory: &Path) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| number(entry.file_name().to_str()?))
}

fn highest(directory: &Path) -> u64 {
    let noted = fs::read_to_string(directory.join(HIGHEST)).ok();
    let noted = noted.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    numbers(directory).max().unwrap_or(0).max(noted)
}
