//! What the host asks for before it stops the vCPUs: what runs, and that nothing is in memory only.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::frame::FRAME_MAX;
use proto::message::{ErrorCode, JobInfo, JobState, Resting, WireError};
use rustix::fs::{Mode, OFlags, open, syncfs};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::agent::{Agent, refuse};
use crate::ports;

/// Ports that are told, the lowest ones. Together with all sessions that there can be they leave
/// most of a frame to the jobs.
const PORTS_MAX: usize = 1000;

/// How long it is looked for who listens on them: somebody waits for the guest to stand still.
const OWNERS_WITHIN: Duration = Duration::from_millis(20);

/// Bytes of a frame for what is around the lists.
const AROUND: usize = 256;

/// What runs; if the host is about to `hang_up`, as it will be then.
///
/// # Errors
/// The ports cannot be looked at.
pub(crate) async fn rest(agent: &Agent, hang_up: bool) -> Result<Resting, WireError> {
    let mut ports = ports::list(OWNERS_WITHIN).await?;
    ports.truncate(PORTS_MAX);
    let mut sessions = agent.sessions.list();
    if hang_up {
        for session in &mut sessions {
            session.attached = false;
        }
    }
    let jobs = if hang_up { agent.jobs.list_without_host() } else { agent.jobs.list() };
    let room = FRAME_MAX.saturating_sub(AROUND + size(&sessions) + size(&ports));
    Ok(Resting { sessions, jobs: within(room, jobs), ports })
}

/// Writes everything to the disks.
///
/// # Errors
/// Something could not be written.
pub(crate) async fn sync(agent: &Arc<Agent>) -> Result<(), WireError> {
    let agent = Arc::clone(agent);
    let written = spawn_blocking(move || {
        agent.jobs.flush();
        rustix::fs::sync();
        // The former does not say how it went.
        flushed(&agent.root)
    });
    let failed = |error: &dyn std::fmt::Display| {
        refuse(ErrorCode::Failed, format!("write to the disks: {error}"))
    };
    written.await.map_err(|error| failed(&error))?.map_err(|errno| failed(&errno))
}

fn flushed(root: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    syncfs(open(root, flags, Mode::empty())?)
}

/// Bytes that `value` takes on the wire.
fn size(value: &impl Serialize) -> usize {
    // What cannot be written fails when it is sent.
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

/// The jobs without those that have ended first, and then those that were started first, as far as
/// they take more than `room` bytes.
fn within(room: usize, jobs: Vec<JobInfo>) -> Vec<JobInfo> {
    let age = |job: &JobInfo| match &job.state {
        JobState::Lost => (false, job.started_at),
        JobState::Exited { at, .. } => (false, *at),
        JobState::Running => (true, job.started_at),
    };
    // Each with a comma, or what is around all of them.
    let sizes: Vec<usize> = jobs.iter().map(|job| size(job) + 1).collect();
    let mut taken = sizes.iter().sum::<usize>() + 1;
    if taken <= room {
        return jobs;
    }
    let mut oldest: Vec<usize> = (0..jobs.len()).collect();
    oldest.sort_by_key(|index| age(&jobs[*index]));
    let mut told = vec![true; jobs.len()];
    for index in oldest {
        if taken <= room {
            break;
        }
        told[index] = false;
        taken -= sizes[index];
    }
    jobs.into_iter().zip(told).filter_map(|(job, told)| told.then_some(job)).collect()
}

#[cfg(test)]
mod tests;
