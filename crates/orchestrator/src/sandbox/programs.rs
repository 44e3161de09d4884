//! Commands, jobs and sessions of a sandbox.

use proto::message::{Attach, Exec, JobInfo, JobOutput, Join, SessionInfo};

use super::Sandbox;
use crate::{
    Error, Kind, Result,
    activity::Work,
    guest::{self, Attachment, Execution, JobReading, Started},
    model::Caller,
    node::blocking,
};

impl Sandbox {
    /// Runs a command that somebody waits for. Dropping the execution kills it.
    pub async fn exec(&self, exec: Exec) -> Result<Execution> {
        check(&exec)?;
        let (session, busy) = self.begin(Work::Command).await?;
        Execution::start(&session, exec, self.witness(), busy).await
    }

    /// Starts a command as a job that nobody waits for; `exec` says `detach`.
    pub async fn start_job(&self, exec: Exec) -> Result<Started> {
        check(&exec)?;
        let keep_awake = exec.detach.as_ref().is_some_and(|detach| detach.keep_awake);
        if !keep_awake {
            let (session, _busy) = self.begin(Work::Control).await?;
            return guest::start_job(&session, exec).await;
        }
        // Counts as activity, so that the sandbox does not look idle before the job is heard of;
        // and the agent is listened to before there is anything to hear.
        let (session, _busy) = self.begin(Work::Command).await?;
        self.shared.awake.watch(&session).await?;
        guest::start_job(&session, exec).await
    }

    /// All jobs, oldest first; of a sandbox that sleeps, as they were when it fell asleep. Never
    /// wakes it.
    pub async fn jobs(&self) -> Result<Vec<JobInfo>> {
        match self.look().await? {
            Some((session, _busy)) => guest::jobs(&session).await,
            None => Ok(self.resting()?.jobs.clone()),
        }
    }

    /// One of the [`jobs`](Self::jobs).
    pub async fn job(&self, id: &str) -> Result<JobInfo> {
        let jobs = self.jobs().await?;
        guest::find_job(jobs, id).map_err(|error| self.hint_jobs(error))
    }

    /// What a job has written. Whoever follows it counts as an attached client.
    pub async fn job_output(&self, request: JobOutput) -> Result<JobReading> {
        let work = if request.follow { Work::Attachment } else { Work::Control };
        let (session, busy) = self.begin(work).await?;
        let reading = JobReading::start(&session, request, self.witness(), busy).await;
        reading.map_err(|error| self.hint_jobs(error))
    }

    /// Forgets a job that has ended, and its output.
    pub async fn job_remove(&self, id: &str) -> Result<()> {
        let (session, _busy) = self.begin(Work::Control).await?;
        guest::remove(&session, id).await.map_err(|error| self.hint_jobs(error))
    }

    /// Signals the process group of a job. One that has ended already is no error.
    pub async fn job_kill(&self, id: &str, signal: i32) -> Result<()> {
        let (session, _busy) = self.begin(Work::Control).await?;
        let killed = guest::kill(&session, id, signal, Kind::JobNotFound).await;
        killed.map_err(|error| self.hint_jobs(error))
    }

    /// All sessions, oldest first; of a sandbox that sleeps, as they were when it fell asleep.
    /// Never wakes it.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        match self.look().await? {
            Some((session, _busy)) => guest::sessions(&session).await,
            None => Ok(self.resting()?.sessions.clone()),
        }
    }

    /// Opens a session or joins one. Dropping the attachment leaves it running.
    pub async fn attach(&self, attach: Attach) -> Result<Attachment> {
        let (session, busy) = self.begin(Work::Attachment).await?;
        let attached = Attachment::start(&session, attach, self.witness(), busy).await;
        attached.map_err(|error| self.hint_sessions(error))
    }

    /// Joins a session beside its client. Dropping the attachment leaves it running.
    ///
    /// # Errors
    /// Among others [`Kind::WrongState`] if its owner has stopped the sandbox and somebody else
    /// calls.
    pub async fn join(&self, caller: Caller, join: Join) -> Result<Attachment> {
        let (session, busy) = self.begin_for(caller, Work::Attachment).await?;
        let joined = Attachment::join(&session, join, self.witness(), busy).await;
        joined.map_err(|error| self.hint_sessions(error))
    }

    /// Signals all processes of a session. One that has ended already is no error.
    pub async fn session_kill(&self, id: &str, signal: i32) -> Result<()> {
        let (session, _busy) = self.begin(Work::Control).await?;
        let killed = guest::kill(&session, id, signal, Kind::SessionNotFound).await;
        killed.map_err(|error| self.hint_sessions(error))
    }

    /// What the program of the sandbox's image is told to end by, if that runs and the image says.
    pub async fn stop_signal(&self) -> Option<String> {
        let node = self.shared.node.upgrade()?;
        let own = self.shared.published.borrow().spec.init.is_some();
        let id = self.shared.record.id.clone();
        let said = move || {
            let image = node.image_of(&node.origin_of(&id)?)?;
            Ok(image.config().stop_signal.clone())
        };
        if own { None } else { blocking(said).await.ok().flatten() }
    }

    fn hint_jobs(&self, error: Error) -> Error {
        let name = self.name();
        match error.kind {
            Kind::JobNotFound => error.hint(format!("see what there is: bhatti jobs {name}")),
            _ => error,
        }
    }

    fn hint_sessions(&self, error: Error) -> Error {
        let name = self.name();
        match error.kind {
            Kind::SessionNotFound => error.hint(format!("see what there is: bhatti ps {name}")),
            _ => error,
        }
    }
}

fn check(exec: &Exec) -> Result<()> {
    if exec.argv.is_empty() {
        return Err(Error::new(Kind::CommandMissing, "there is no command to run")
            .hint("give one after --, for instance: bhatti exec NAME -- uname -a"));
    }
    Ok(())
}
