//! Detached jobs.

use hyper::Method;

use super::{Query, encode, require_ndjson, sandbox_path};
use crate::{
    Done, Job, JobEvent, Kill,
    client::{Call, Client, ClientError, Events, body::json},
};

impl Client {
    /// The sandbox's jobs, oldest first.
    pub async fn jobs(&mut self, id: &str) -> Result<Vec<Job>, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, "/jobs"))).await?).await
    }

    /// One job.
    pub async fn job(&mut self, id: &str, job: &str) -> Result<Job, ClientError> {
        json(self.send(Call::new(Method::GET, job_path(id, job, ""))).await?).await
    }

    /// What a job has written from the cursor `offset` on; with `follow` also what it goes on to
    /// write.
    pub async fn job_output(
        &mut self,
        id: &str,
        job: &str,
        offset: u64,
        follow: bool,
    ) -> Result<Events<'_, JobEvent>, ClientError> {
        let mut query = Query::new(job_path(id, job, "/output"));
        query.add("offset", &offset.to_string());
        query.add("follow", &follow.to_string());
        let response = self.send(Call::new(Method::GET, query.0).streamed()).await?;
        Ok(Events::new(require_ndjson(response)?.into_body()))
    }

    /// Signals a job's processes.
    pub async fn job_kill(
        &mut self,
        id: &str,
        job: &str,
        request: &Kill,
    ) -> Result<Done, ClientError> {
        let call = Call::new(Method::POST, job_path(id, job, "/kill")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Forgets a job that has ended, and its output.
    pub async fn job_remove(&mut self, id: &str, job: &str) -> Result<Done, ClientError> {
        json(self.send(Call::new(Method::DELETE, job_path(id, job, ""))).await?).await
    }
}

fn job_path(id: &str, job: &str, rest: &str) -> String {
    sandbox_path(id, &format!("/jobs/{}{rest}", encode(job)))
}
