//! Commands in the foreground, as the jobs that they become if their host is lost.

use std::sync::Arc;

use proto::message::{Exec, JobInfo, JobState};
use tokio::time::Instant;

use super::number;
use super::run::started_at;
use crate::agent::{Agent, lock};
use crate::exec::command::cut;

/// A command in the foreground that runs.
#[derive(Debug)]
pub(super) struct Waiting {
    argv: Vec<String>,
    pid: i32,
    started: Instant,
}

/// The id of a command in the foreground, held for as long as somebody waits for it.
pub(crate) struct Reserved {
    agent: Arc<Agent>,
    id: String,
}

impl Reserved {
    /// The id of the job that the command becomes.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(number) = number(&self.id) {
            lock(&self.agent.jobs.inner).foreground.remove(&number);
        }
    }
}

/// Gives a command in the foreground its id.
pub(crate) fn reserve(agent: &Arc<Agent>, request: &Exec, pid: i32, started: Instant) -> Reserved {
    let id = agent.jobs.next_id();
    if let Some(number) = number(&id) {
        let waiting = Waiting { argv: cut(&request.argv), pid, started };
        lock(&agent.jobs.inner).foreground.insert(number, waiting);
    }
    Reserved { agent: Arc::clone(agent), id }
}

impl Waiting {
    pub(super) fn info(&self, number: u64) -> JobInfo {
        JobInfo {
            id: format!("j{number}"),
            argv: self.argv.clone(),
            pid: self.pid,
            started_at: started_at(self.started),
            state: JobState::Running,
            output_start: 0,
            output_end: 0,
            keep_awake: false,
        }
    }
}
