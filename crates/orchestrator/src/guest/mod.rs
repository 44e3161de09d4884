//! The host's side of the conversation with the guest agent.

mod awake;
mod channel;
mod exec;
mod files;
mod furnish;
mod jobs;
mod lost;
mod sessions;
#[cfg(test)]
pub(crate) mod testing;
mod tunnel;
mod volumes;

use std::time::Duration;

use proto::{
    message::{PortInfo, Request, Response, Resting},
    mux::Stream,
};

pub(crate) use awake::Awake;
pub(crate) use channel::{Channel, NOTICE, Patience, fresh};
pub(crate) use exec::start_job;
pub use exec::{ExecEvent, ExecInput, Execution, Started};
pub use files::{FileReading, FileWriting, Listing, Watching};
pub(crate) use files::{LayerReading, list, stat};
pub(crate) use furnish::{start_init, unpack, write_file};
pub use jobs::{JobEvent, JobReading};
pub(crate) use jobs::{find_job, jobs, kill, remove};
pub(crate) use lost::Witness;
pub(crate) use sessions::sessions;
pub use sessions::{AttachEvent, AttachInput, Attachment, Joined};
pub use tunnel::{Hold, Ready, Tunnel};
pub(crate) use volumes::{freeze_volumes, grow_volume, mount_volumes, thaw_volumes};

use crate::{Error, Kind, Result};

/// How long the agent may take over a request that needs no work worth mentioning.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the guest may take to write to its disks.
const SYNCED: Duration = Duration::from_secs(60);

/// How long it may take to say what is going on, while everybody else waits.
const RESTS: Duration = Duration::from_secs(3);

/// Opens a stream, sends the request and returns the first answer with the stream.
async fn ask(session: &proto::mux::Session, request: &Request) -> Result<(Stream, Response)> {
    ask_within(ANSWER, session, request).await
}

/// As [`ask`], of what may take as long as `limit`.
async fn ask_within(
    limit: Duration,
    session: &proto::mux::Session,
    request: &Request,
) -> Result<(Stream, Response)> {
    let asked = async {
        let mut stream = session.open().await?;
        stream.send_json(request).await?;
        let answer = answer(&mut stream).await?;
        Ok((stream, answer))
    };
    within(limit, asked).await
}

/// Asks for a change that is answered by being done. It may take its time: a tree is removed or
/// copied entry by entry.
pub(crate) async fn change(session: &proto::mux::Session, request: &Request) -> Result<()> {
    let mut stream = session.open().await?;
    stream.send_json(request).await?;
    match answer(&mut stream).await? {
        Response::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Has the guest write to its disks what is not there yet.
pub(crate) async fn sync(session: &proto::mux::Session) -> Result<()> {
    within(SYNCED, change(session, &Request::Sync)).await
}

/// What listens in the guest, lowest port first.
pub(crate) async fn ports(session: &proto::mux::Session) -> Result<Vec<PortInfo>> {
    match ask(session, &Request::Ports).await? {
        (_, Response::Ports { ports }) => Ok(ports),
        (_, other) => Err(unexpected(&other)),
    }
}

/// What is going on in a guest that is about to sleep.
pub(crate) async fn rest(session: &proto::mux::Session, hang_up: bool) -> Result<Resting> {
    match within(RESTS, ask(session, &Request::Rest { hang_up })).await? {
        (_, Response::Resting(resting)) => Ok(resting),
        (_, other) => Err(unexpected(&other)),
    }
}

/// The next JSON answer of a stream; an error answer becomes our error.
async fn answer(stream: &mut Stream) -> Result<Response> {
    match stream.recv_json::<Response>().await? {
        Some(Response::Error(error)) => Err(error.into()),
        Some(response) => Ok(response),
        None => Err(cut_off()),
    }
}

/// Sends a request that is answered by [`Response::Done`].
async fn expect_done(session: &proto::mux::Session, request: &Request) -> Result<()> {
    match ask(session, request).await? {
        (_, Response::Done) => Ok(()),
        (_, other) => Err(unexpected(&other)),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        let message = format!("the guest agent did not answer in {seconds} s");
        Err(Error::new(Kind::AgentUnreachable, message))
    })
}

fn cut_off() -> Error {
    Error::new(Kind::AgentUnreachable, "the guest agent broke off in the middle of an answer")
}

fn unexpected(response: &Response) -> Error {
    let shown: String = format!("{response:?}").chars().take(80).collect();
    Error::new(Kind::AgentUnreachable, format!("the guest agent gave an odd answer: {shown}"))
}
