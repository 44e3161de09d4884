//! Telling the host what a job has written.

use std::sync::Arc;

use proto::message::{JobOutput, Response};
use proto::mux::{MuxError, RecvHalf, SendHalf};

use super::{Job, Step};
use crate::activity::{Counted, Held, until};
use crate::agent::Agent;

/// Hosts that may read output at once.
const READERS_MAX: u32 = 100;

/// Serves one [`JobOutput`].
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    request: &JobOutput,
    mut send: SendHalf,
    recv: RecvHalf,
) {
    let found = Held::within(agent, Counted::LogReader, READERS_MAX, "readers of output")
        .and_then(|reading| Ok((reading, agent.jobs.find(&request.job)?)));
    match found {
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
        }
        Ok((_reading, job)) => {
            tokio::select! {
                biased;
                _told = tell(&job, request, &mut send) => {}
                () = recv.closed() => {}
            }
        }
    }
}

async fn tell(job: &Job, request: &JobOutput, send: &mut SendHalf) -> Result<(), MuxError> {
    let mut reader = job.reader(request.offset);
    let enough = if request.follow { u64::MAX } else { job.info().output_end };
    send.send_json(&Response::JobOutput { start: reader.cursor() }).await?;
    let state = loop {
        // Looked at first: what was written before the end is then read after it.
        let state = job.state();
        if reader.cursor() >= enough {
            break state;
        }
        match job.read(&mut reader) {
            Step::Bytes(kind, bytes) => send.send_data(kind, &bytes).await?,
            Step::Skipped => {
                send.send_json(&Response::JobOutput { start: reader.cursor() }).await?;
            }
            Step::End if request.follow && state == proto::message::JobState::Running => {
                until(&job.changed, || job.has_news(&reader).then_some(())).await;
            }
            Step::End => break state,
        }
    };
    send.send_json(&Response::JobOutputEnd { next: reader.cursor(), state }).await
}
