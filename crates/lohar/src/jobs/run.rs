//! Looking after a job for as long as it runs.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use proto::message::{ErrorCode, Exec, Exited, Response, WireError};
use tokio::time::{Instant, timeout_at};

use super::meta::{Meta, now};
use super::{JOBS_MAX, Job};
use crate::activity::{Counted, Held};
use crate::agent::{Agent, refuse};
use crate::exec::command::cut;
use crate::exec::process::Process;
use crate::log;

/// How long output stays in memory only.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Starts a job.
///
/// # Errors
/// [`JOBS_MAX`] run already, or the command cannot be started.
pub(crate) fn start(agent: &Arc<Agent>, request: &Exec) -> Result<Response, WireError> {
    if agent.jobs.running() >= JOBS_MAX {
        let message = format!("there are {JOBS_MAX} running jobs already");
        return Err(refuse(ErrorCode::Limit, message));
    }
    let process = Process::start(agent, request, false)?;
    let id = agent.jobs.next_id();
    let pid = process.pid();
    take_on(agent, request, &id, process);
    Ok(Response::Started { pid, job: id })
}

/// Makes a job of a command whose host was lost.
pub(crate) fn adopt(agent: &Arc<Agent>, request: &Exec, id: &str, process: Process) {
    take_on(agent, request, id, process);
}

fn take_on(agent: &Arc<Agent>, request: &Exec, id: &str, process: Process) {
    let detach = request.detach.clone().unwrap_or_default();
    let meta = Meta {
        argv: cut(&request.argv),
        pid: process.pid(),
        started_at: started_at(process.started),
        keep_awake: detach.keep_awake,
        end: None,
    };
    let job = agent.jobs.add(id, meta, process.life.pid, detach.output_max);
    let awake = detach.keep_awake.then(|| Held::new(agent, Counted::KeepAwake));
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        attend(&agent, &job, process).await;
        drop(awake);
    });
}

/// The time of day at which something was started, in seconds since the Unix epoch.
pub(super) fn started_at(started: Instant) -> i64 {
    now() - i64::try_from(started.elapsed().as_secs()).unwrap_or(0)
}

async fn attend(agent: &Agent, job: &Job, mut process: Process) {
    for (kind, piece) in process.unsent.drain(..) {
        job.push(kind, &piece);
    }
    if let Err(error) = process.outputs.watch() {
        log::warn(&format!("watch the output of job {}: {error}", job.id));
    }
    let exited = pump(job, &mut process).await;
    for (kind, piece) in process.outputs.drain() {
        job.push(kind, &piece);
    }
    agent.jobs.end(job, exited);
    process.leave_behind();
}

/// Keeps output as it comes until the command has ended.
async fn pump(job: &Job, process: &mut Process) -> Exited {
    let Process { life, outputs, .. } = process;
    let mut ended = pin!(life.ended());
    let mut flush_at = None;
    loop {
        // Output without a pause must not keep others waiting.
        tokio::task::coop::consume_budget().await;
        tokio::select! {
            biased;
            exited = &mut ended => return exited,
            (kind, piece) = outputs.next() => {
                job.push(kind, piece);
                outputs.told();
            }
            () = deadline(flush_at) => job.flush(),
        }
        flush_at = job.is_dirty().then(|| flush_at.unwrap_or_else(|| Instant::now() + FLUSH_AFTER));
    }
}

/// Waits until then, if there is such a time.
pub(crate) async fn deadline(at: Option<Instant>) {
    match at {
        Some(at) => {
            // Nothing else can come of it.
            let _ = timeout_at(at, std::future::pending::<()>()).await;
        }
        None => std::future::pending().await,
    }
}
