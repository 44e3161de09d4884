//! Detached jobs.

use proto::{
    frame::FrameKind,
    message::{JobInfo, JobOutput, JobState, Request, Response},
    mux::{Session, Stream},
};

use super::{
    ask, cut_off, expect_done,
    lost::{Trace, Witness},
    unexpected,
};
use crate::{Error, Kind, Result, activity::Busy};

/// What a job has written, and what there is to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// Bytes of its standard output.
    Stdout {
        /// Cursor of the first of them.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Bytes of its standard error.
    Stderr {
        /// Cursor of the first of them.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Output before this cursor is not kept any more.
    Missed {
        /// Cursor of the oldest byte that is.
        offset: u64,
    },
    /// That is all; nothing follows.
    End {
        /// Where to go on.
        offset: u64,
        /// What the job was doing then.
        state: JobState,
    },
}

/// The output of a job on its way.
#[derive(Debug)]
pub struct JobReading {
    stream: Stream,
    job: String,
    start: u64,
    cursor: u64,
    missed: bool,
    witness: Witness,
    _busy: Busy,
}

impl JobReading {
    pub(crate) async fn start(
        session: &Session,
        request: JobOutput,
        witness: Witness,
        mut busy: Busy,
    ) -> Result<Self> {
        let (job, wanted) = (request.job.clone(), request.offset);
        match ask(session, &Request::JobOutput(request)).await? {
            (stream, Response::JobOutput { start }) => {
                let missed = start > wanted;
                busy.begun();
                Ok(Self { stream, job, start, cursor: start, missed, witness, _busy: busy })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Cursor of the first byte that comes.
    pub fn first(&self) -> u64 {
        self.start
    }

    /// The next event. [`JobEvent::End`] is the last; output never ends without it or an error.
    pub async fn next(&mut self) -> Result<JobEvent> {
        if std::mem::take(&mut self.missed) {
            return Ok(JobEvent::Missed { offset: self.cursor });
        }
        loop {
            let frame = match self.stream.recv().await {
                Ok(frame) => frame.ok_or_else(cut_off)?,
                Err(error) => {
                    return Err(self.witness.explain(error, &Trace::Job(self.job.clone())).await);
                }
            };
            let offset = self.cursor;
            match frame.kind {
                FrameKind::Stdout | FrameKind::Stderr => {
                    let data = frame.payload;
                    self.cursor += data.len() as u64;
                    return Ok(if frame.kind == FrameKind::Stdout {
                        JobEvent::Stdout { offset, data }
                    } else {
                        JobEvent::Stderr { offset, data }
                    });
                }
                FrameKind::Json => {
                    if let Some(event) = self.told(&frame.payload)? {
                        return Ok(event);
                    }
                }
                FrameKind::Stdin | FrameKind::Data => return Err(cut_off()),
            }
        }
    }

    fn told(&mut self, json: &[u8]) -> Result<Option<JobEvent>> {
        match serde_json::from_slice(json) {
            // Old output was dropped faster than we could read it.
            Ok(Response::JobOutput { start }) if start >= self.cursor => {
                let overtaken = start > self.cursor;
                self.cursor = start;
                Ok(overtaken.then_some(JobEvent::Missed { offset: start }))
            }
            Ok(Response::JobOutputEnd { next, state }) => {
                Ok(Some(JobEvent::End { offset: next, state }))
            }
            Ok(Response::Error(error)) => Err(error.into()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(cut_off().caused_by(error)),
        }
    }
}

/// All jobs, oldest first.
pub(crate) async fn jobs(session: &Session) -> Result<Vec<JobInfo>> {
    match ask(session, &Request::Jobs).await? {
        (_, Response::Jobs { jobs }) => Ok(jobs),
        (_, other) => Err(unexpected(&other)),
    }
}

/// The job of that id.
pub(crate) fn find_job(jobs: Vec<JobInfo>, id: &str) -> Result<JobInfo> {
    jobs.into_iter().find(|job| job.id == id).ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        Error::new(Kind::JobNotFound, format!("there is no job {shown:?}"))
    })
}

/// Forgets a job that has ended.
pub(crate) async fn remove(session: &Session, id: &str) -> Result<()> {
    expect_done(session, &Request::JobRemove { job: id.to_owned() }).await
}

/// Signals a job or session; `unknown` says what there is none of, if there is none.
pub(crate) async fn kill(session: &Session, id: &str, signal: i32, unknown: Kind) -> Result<()> {
    let killed = expect_done(session, &Request::Kill { id: id.to_owned(), signal }).await;
    killed.map_err(|mut error| {
        if matches!(error.kind, Kind::JobNotFound | Kind::SessionNotFound) {
            error.kind = unknown;
        }
        error
    })
}

#[cfg(test)]
mod tests {
    use proto::message::Exited;

    use super::*;
    use crate::{
        activity::{Activity, Work},
        guest::{lost::tests::witness, testing::FakeAgent},
    };

    async fn events(agent: &FakeAgent, offset: u64) -> (u64, Vec<JobEvent>, Result<()>) {
        let (witness, _publish) = witness(&agent.session);
        let busy = Activity::new().begin(Work::Control).unwrap();
        let request = JobOutput { job: "j1".to_owned(), offset, follow: true };
        let mut reading = JobReading::start(&agent.session, request, witness, busy).await.unwrap();
        let mut all = Vec::new();
        loop {
            match reading.next().await {
                Ok(event) => {
                    let last = matches!(event, JobEvent::End { .. });
                    all.push(event);
                    if last {
                        return (reading.first(), all, Ok(()));
                    }
                }
                Err(error) => return (reading.first(), all, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_kept_any_more_is_told_at_the_start_and_in_the_middle() {
        let state =
            JobState::Exited { exited: Exited { code: 3, signal: None, timed_out: false }, at: 9 };
        let end = Response::JobOutputEnd { next: 103, state: state.clone() };
        let agent = FakeAgent::new(move |_, mut stream: Stream| {
            let end = end.clone();
            async move {
                stream.send_json(&Response::JobOutput { start: 10 }).await.unwrap();
                stream.send_data(FrameKind::Stdout, b"ab").await.unwrap();
                stream.send_data(FrameKind::Stderr, b"c").await.unwrap();
                // Nothing was missed after all.
                stream.send_json(&Response::JobOutput { start: 13 }).await.unwrap();
                stream.send_json(&Response::JobOutput { start: 100 }).await.unwrap();
                stream.send_data(FrameKind::Stdout, b"xyz").await.unwrap();
                stream.send_json(&end).await.unwrap();
            }
        })
        .await;
        let (first, told, result) = events(&agent, 4).await;
        result.unwrap();
        assert_eq!(first, 10);
        let out = |offset, data: &[u8]| JobEvent::Stdout { offset, data: data.to_vec() };
        let rest = [
            out(10, b"ab"),
            JobEvent::Stderr { offset: 12, data: b"c".to_vec() },
            JobEvent::Missed { offset: 100 },
            out(100, b"xyz"),
            JobEvent::End { offset: 103, state },
        ];
        assert_eq!(told[0], JobEvent::Missed { offset: 10 });
        assert_eq!(told[1..], rest);
        let (_, told, _) = events(&agent, 10).await;
        assert_eq!(told, rest);
    }

    #[tokio::test]
    async fn output_that_goes_back_or_breaks_off_is_an_error() {
        let agent = FakeAgent::new(async |_, mut stream: Stream| {
            stream.send_json(&Response::JobOutput { start: 5 }).await.unwrap();
            stream.send_json(&Response::JobOutput { start: 4 }).await.unwrap();
        })
        .await;
        assert_eq!(events(&agent, 5).await.2.unwrap_err().kind, Kind::AgentUnreachable);
        let agent = FakeAgent::new(async |_, mut stream: Stream| {
            stream.send_json(&Response::JobOutput { start: 0 }).await.unwrap();
            stream.send_data(FrameKind::Stdout, b"half").await.unwrap();
        })
        .await;
        let (_, told, result) = events(&agent, 0).await;
        assert_eq!((told.len(), result.unwrap_err().kind), (1, Kind::AgentUnreachable));
    }

    #[tokio::test]
    async fn who_kills_what_is_not_there_is_told_in_its_own_words() {
        use proto::message::{ErrorCode, WireError};
        let agent = FakeAgent::new(async |_, mut stream: Stream| {
            let error =
                WireError { code: ErrorCode::UnknownJob, message: "there is no x".to_owned() };
            stream.send_json(&Response::Error(error)).await.unwrap();
        })
        .await;
        for kind in [Kind::JobNotFound, Kind::SessionNotFound] {
            assert_eq!(kill(&agent.session, "x", 15, kind).await.unwrap_err().kind, kind);
        }
    }
}
