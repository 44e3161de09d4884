//! Detached jobs.

use std::io;

use api::{Done, Job, JobEvent, JobStatus, Kill, Payload, headers};
use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderName, Uri, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use orchestrator::{self as guest, JobReading, message};
use serde::Deserialize;

use crate::{
    app::{App, RequestId},
    auth::{self, OwnedSandbox},
    body,
    failure::Failure,
    show, signals,
};

/// The `job` of the route.
#[derive(Debug)]
pub(crate) struct JobId(String);

impl FromRequestParts<App> for JobId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        auth::param(parts, "job").await.map(Self)
    }
}

/// What the query of an output request can hold.
#[derive(Debug, Default, Deserialize)]
struct OutputQuery {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    follow: bool,
}

pub(crate) async fn list(OwnedSandbox(sandbox): OwnedSandbox) -> Result<Json<Vec<Job>>, Failure> {
    let jobs = sandbox.jobs().await?;
    Ok(Json(jobs.into_iter().map(job).collect()))
}

pub(crate) async fn get(
    OwnedSandbox(sandbox): OwnedSandbox,
    JobId(id): JobId,
) -> Result<Json<Job>, Failure> {
    Ok(Json(job(sandbox.job(&id).await?)))
}

pub(crate) async fn kill(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    JobId(id): JobId,
    body: Body,
) -> Result<Json<Done>, Failure> {
    let wanted: Kill = body::json_or_default(body, app.json_body_max).await?;
    sandbox.job_kill(&id, signals::parse(wanted.signal.as_deref())?).await?;
    Ok(Json(Done { status: "killed".to_owned() }))
}

pub(crate) async fn remove(
    OwnedSandbox(sandbox): OwnedSandbox,
    JobId(id): JobId,
) -> Result<Json<Done>, Failure> {
    sandbox.job_remove(&id).await?;
    Ok(Json(Done { status: "removed".to_owned() }))
}

pub(crate) async fn output(
    OwnedSandbox(sandbox): OwnedSandbox,
    JobId(id): JobId,
    request: RequestId,
    request_headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    let OutputQuery { offset, follow } = body::query(&uri)?;
    let wanted = message::JobOutput { job: id.clone(), offset, follow };
    if body::wants_events(&request_headers) {
        let reading = sandbox.job_output(wanted).await?;
        return Ok(body::lines(stream::unfold(Some((reading, request)), async |reading| {
            let (mut reading, request) = reading?;
            let event = match reading.next().await {
                Ok(told) => event(told),
                Err(error) => JobEvent::Error(Failure::from(error).report(&request)),
            };
            let rest = (!event.is_last()).then_some((reading, request));
            Some((body::line(&event), rest))
        })));
    }
    // Where the answer ends is one of its headers, so it has to be known before it begins.
    let end = if follow { None } else { Some(sandbox.job(&id).await?.output_end) };
    let reading = sandbox.job_output(wanted).await?;
    Ok(raw(reading, end, request))
}

/// The bare bytes, up to a cursor if there is one.
fn raw(reading: JobReading, end: Option<u64>, request: RequestId) -> Response {
    let first = reading.first();
    let end = end.map(|end| end.max(first));
    let state = Some((reading, Cutter { cursor: first, end }, request));
    let body = Body::from_stream(stream::unfold(state, async |state| {
        let (mut reading, mut cutter, request) = state?;
        loop {
            if cutter.is_done() {
                return None;
            }
            let cut = match reading.next().await {
                Ok(event) => cutter.take(event),
                Err(error) => Err(Failure::from(error).report(&request).error),
            };
            match cut {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => return Some((Ok(piece), Some((reading, cutter, request)))),
                Ok(None) => return None,
                // The server then breaks the connection off, which is the only way left to say
                // that this is not all.
                Err(why) => return Some((Err(io::Error::other(why)), None)),
            }
        }
    }));
    let mut response = ([(header::CONTENT_TYPE, headers::OCTETS)], body).into_response();
    let set = response.headers_mut();
    set.insert(HeaderName::from_static(headers::OUTPUT_OFFSET), first.into());
    if let Some(end) = end {
        set.insert(HeaderName::from_static(headers::OUTPUT_NEXT), end.into());
        set.insert(header::CONTENT_LENGTH, (end - first).into());
    }
    response
}

/// Makes bare bytes of events. Bytes cannot say that some are missing, so they must not be.
#[derive(Debug)]
struct Cutter {
    cursor: u64,
    end: Option<u64>,
}

impl Cutter {
    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.cursor >= end)
    }

    /// The next bytes, or `None` at the proper end.
    fn take(&mut self, event: guest::JobEvent) -> Result<Option<Bytes>, String> {
        match event {
            guest::JobEvent::Stdout { mut data, .. } | guest::JobEvent::Stderr { mut data, .. } => {
                if let Some(end) = self.end {
                    // What was written after the end was asked for.
                    let room = usize::try_from(end - self.cursor).unwrap_or(usize::MAX);
                    data.truncate(room);
                }
                self.cursor += data.len() as u64;
                Ok(Some(data.into()))
            }
            // Told by the header already.
            guest::JobEvent::Missed { offset } if offset == self.cursor => Ok(Some(Bytes::new())),
            guest::JobEvent::Missed { offset } => {
                Err(format!("the output from {} to {offset} is not kept any more", self.cursor))
            }
            guest::JobEvent::End { .. } if self.end.is_none_or(|end| self.cursor >= end) => {
                Ok(None)
            }
            guest::JobEvent::End { .. } => Err("the output ended early".to_owned()),
        }
    }
}

fn event(event: guest::JobEvent) -> JobEvent {
    match event {
        guest::JobEvent::Stdout { offset, data } => {
            JobEvent::Stdout { offset, payload: Payload::new(data) }
        }
        guest::JobEvent::Stderr { offset, data } => {
            JobEvent::Stderr { offset, payload: Payload::new(data) }
        }
        guest::JobEvent::Missed { offset } => JobEvent::Missed { offset },
        guest::JobEvent::End { offset, state } => {
            let (status, exited) = status(state);
            JobEvent::End { offset, status, exit_code: exited.map(|(exited, _)| exited.code) }
        }
    }
}

fn job(job: message::JobInfo) -> Job {
    let (status, exited) = status(job.state);
    Job {
        id: job.id,
        cmd: job.argv,
        pid: job.pid,
        status,
        exit_code: exited.as_ref().map(|(exited, _)| exited.code),
        timed_out: exited.as_ref().is_some_and(|(exited, _)| exited.timed_out),
        started_at: show::time(job.started_at),
        ended_at: exited.map(|(_, at)| show::time(at)),
        output_start: job.output_start,
        output_end: job.output_end,
        keep_awake: job.keep_awake,
    }
}

fn status(state: message::JobState) -> (JobStatus, Option<(message::Exited, i64)>) {
    match state {
        message::JobState::Running => (JobStatus::Running, None),
        message::JobState::Exited { exited, at } => (JobStatus::Exited, Some((exited, at))),
        message::JobState::Lost => (JobStatus::Lost, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(offset: u64, data: &[u8]) -> guest::JobEvent {
        guest::JobEvent::Stdout { offset, data: data.to_vec() }
    }

    #[test]
    fn bare_bytes_end_where_the_header_says() {
        let mut cutter = Cutter { cursor: 10, end: Some(15) };
        let missed = guest::JobEvent::Missed { offset: 10 };
        assert_eq!(cutter.take(missed).unwrap().unwrap(), "");
        assert_eq!(cutter.take(out(10, b"abc")).unwrap().unwrap(), "abc");
        assert!(!cutter.is_done());
        assert_eq!(cutter.take(out(13, b"defg")).unwrap().unwrap(), "de");
        assert!(cutter.is_done());
    }

    #[test]
    fn bare_bytes_with_a_gap_or_without_their_end_are_broken() {
        let end = || guest::JobEvent::End { offset: 9, state: message::JobState::Running };
        let mut cutter = Cutter { cursor: 0, end: Some(15) };
        cutter.take(end()).unwrap_err();
        cutter.take(guest::JobEvent::Missed { offset: 7 }).unwrap_err();
        let mut followed = Cutter { cursor: 9, end: None };
        assert_eq!(followed.take(end()).unwrap(), None);
    }

    #[test]
    fn jobs_are_shown_with_how_they_ended() {
        let info = |state| message::JobInfo {
            id: "j1".to_owned(),
            argv: vec!["a".to_owned()],
            pid: 3,
            started_at: 0,
            state,
            output_start: 1,
            output_end: 2,
            keep_awake: true,
        };
        let shown = job(info(message::JobState::Running));
        assert_eq!(
            (shown.status, shown.exit_code, shown.ended_at),
            (JobStatus::Running, None, None)
        );
        let exited = message::Exited { code: 137, signal: Some(9), timed_out: true };
        let shown = job(info(message::JobState::Exited { exited: exited.clone(), at: 60 }));
        assert_eq!((shown.exit_code, shown.timed_out), (Some(137), true));
        assert_eq!(shown.ended_at.as_deref(), Some("1970-01-01T00:01:00Z"));
        assert_eq!(job(info(message::JobState::Lost)).status, JobStatus::Lost);
        let state = message::JobState::Exited { exited, at: 60 };
        assert_eq!(
            event(guest::JobEvent::End { offset: 5, state }),
            JobEvent::End { offset: 5, status: JobStatus::Exited, exit_code: Some(137) }
        );
    }
}
