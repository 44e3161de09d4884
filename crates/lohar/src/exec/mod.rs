//! Running a command for the host.
//!
//! ```text
//!            exited? timed out? ─── supervise ──┐
//!   stdin frames ─► feed ─► stdin               ├─► Exited
//!   stdout, stderr pipes ─► pump ─► frames ─────┘
//! ```
//!
//! Most commands are over before any of this is set up: for a moment the agent waits only for the
//! exit, and if it comes, everything goes out at once.

pub(crate) mod command;
pub(crate) mod output;
pub(crate) mod process;
mod recent;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::frame::{Frame, FrameKind};
use proto::message::{ErrorCode, Exec, Exited, Response, WireError};
use proto::mux::{MuxError, RecvHalf, SendHalf};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use self::command::Command;
use self::output::Outputs;
use self::process::Process;
use self::recent::Recent;
use crate::activity::Held;
use crate::agent::Agent;
use crate::jobs::Reserved;
use crate::{jobs, log, services};

/// How long a command may take for its start, output and end to be told together. Telling them one
/// by one costs an emulated guest more than the command itself; waiting longer would only delay the
/// first output of a longer one. It is twice what a small command takes here, within these bounds.
const TOGETHER: RangeInclusive<Duration> = Duration::from_millis(4)..=Duration::from_millis(50);

/// A command in the foreground.
struct Foreground {
    agent: Arc<Agent>,
    process: Process,
    /// The job that it becomes if the host is lost.
    job: Reserved,
    recent: Recent,
    _running: Held,
}

/// How serving the host ended.
enum Served {
    /// The host knows how the command ended.
    Told,
    /// The host has dropped the stream.
    ClientGone,
    /// The whole session is over, as after a restore.
    SessionLost,
}

impl From<MuxError> for Served {
    fn from(error: MuxError) -> Self {
        if matches!(error, MuxError::SessionEnded) { Self::SessionLost } else { Self::ClientGone }
    }
}

/// Serves one [`Exec`]; all that the host is told about it is said here.
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    request: &Exec,
    mut send: SendHalf,
    mut recv: RecvHalf,
) {
    if request.detach.is_some() {
        let response = jobs::start(agent, request).unwrap_or_else(Response::Error);
        // Whoever asked may be gone.
        let _ = send.send_json(&response).await;
        return;
    }
    let mut command = match Foreground::start(agent, request) {
        Ok(command) => command,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
            return;
        }
    };
    match command.attend(&mut send, &mut recv).await {
        Served::Told => command.process.leave_behind(),
        Served::ClientGone => command.process.life.kill().await,
        Served::SessionLost => {
            if !agent.expects_hang_up() {
                command.keep_recent();
            }
            let Foreground { process, job, .. } = command;
            jobs::adopt(agent, request, job.id(), process);
        }
    }
}

impl Foreground {
    fn start(agent: &Arc<Agent>, request: &Exec) -> Result<Self, WireError> {
        let running = agent.begin_command()?;
        let process = Process::start(agent, request, request.stdin)?;
        let job = jobs::reserve(agent, request, process.pid(), process.started);
        let recent = Recent::default();
        Ok(Self { agent: Arc::clone(agent), process, job, recent, _running: running })
    }

    fn started(&self) -> Response {
        Response::Started { pid: self.process.pid(), job: self.job.id().to_owned() }
    }

    /// What was said last may have gone nowhere.
    fn keep_recent(&mut self) {
        let unsent = std::mem::take(&mut self.process.unsent);
        self.process.unsent = self.recent.take().chain(unsent).collect();
    }

    async fn attend(&mut self, send: &mut SendHalf, recv: &mut RecvHalf) -> Served {
        // Whoever has input to send waits for the announcement.
        let small = match self.process.stdin {
            Some(_) => Duration::ZERO,
            None => self.agent.small_command().saturating_mul(2),
        };
        let wait = small.clamp(*TOGETHER.start(), *TOGETHER.end());
        let together = self.process.life.deadline.min(Instant::now() + wait);
        let early = timeout_at(together, async {
            tokio::select! {
                biased;
                ended = &mut self.process.life.exited => Err(ended),
                frame = recv.recv() => Ok(frame),
            }
        });
        let first = match early.await {
            Ok(Err(ended)) => {
                let exited = self.process.life.note(ended);
                let told = self.tell_all(send, exited).await;
                return told.map_or_else(Served::from, |()| Served::Told);
            }
            Ok(Ok(frame)) => Some(frame),
            Err(_elapsed) => None,
        };
        if let Err(error) = send.send_json(&self.started()).await {
            return error.into();
        }
        if let Err(error) = self.process.outputs.watch() {
            log::warn(&format!("watch the output of a command: {error}"));
            return Served::ClientGone;
        }
        let (sender, mut ended) = oneshot::channel();
        let Process { life, outputs, stdin, .. } = &mut self.process;
        let feed = feed(&self.agent, first, stdin, recv);
        let supervise = async {
            // The pump waits for it unless the command is of no more interest.
            let _ = sender.send(life.ended().await);
            std::future::pending::<Served>().await
        };
        let pumped = tokio::select! {
            biased;
            pumped = pump(outputs, send, &mut self.recent, &mut ended) => {
                pumped.map_err(Served::from)
            }
            gone = feed => Err(gone),
            never = supervise => Err(never),
        };
        match pumped {
            Err(served) => {
                self.process.unsent.extend(self.process.outputs.take_untold());
                served
            }
            Ok(exited) => {
                let told = self.tell_rest(send, exited).await;
                told.map_or_else(Served::from, |()| Served::Told)
            }
        }
    }

    async fn tell_all(&mut self, send: &mut SendHalf, exited: Exited) -> Result<(), MuxError> {
        send.send_json(&self.started()).await?;
        self.tell_rest(send, exited).await
    }

    async fn tell_rest(&mut self, send: &mut SendHalf, exited: Exited) -> Result<(), MuxError> {
        let mut rest = self.process.outputs.drain().into_iter();
        while let Some((kind, piece)) = rest.next() {
            if let Err(error) = send.send_data(kind, &piece).await {
                self.process.unsent.push((kind, piece));
                self.process.unsent.extend(rest);
                return Err(error);
            }
        }
        send.send_json(&Response::Exited(exited)).await
    }
}

/// Sends output as it comes until the command has ended. A piece that could not be sent stays with
/// the outputs.
async fn pump(
    outputs: &mut Outputs,
    send: &mut SendHalf,
    recent: &mut Recent,
    ended: &mut oneshot::Receiver<Exited>,
) -> Result<Exited, MuxError> {
    loop {
        tokio::select! {
            biased;
            Ok(exited) = &mut *ended => return Ok(exited),
            (kind, piece) = outputs.next() => {
                send.send_data(kind, piece).await?;
                recent.push(kind, piece);
            }
        }
        outputs.told();
    }
}

/// Gives the command its input; ends only when the host is gone.
async fn feed(
    agent: &Agent,
    first: Option<Result<Option<Frame>, MuxError>>,
    stdin: &mut Option<AsyncFd<OwnedFd>>,
    recv: &mut RecvHalf,
) -> Served {
    let mut next = first;
    loop {
        let frame = match next.take() {
            Some(first) => first,
            None => recv.recv().await,
        };
        let frame = match frame {
            Err(error) => return error.into(),
            Ok(None) => return Served::ClientGone,
            Ok(Some(frame)) => frame,
        };
        let Some(pipe) = stdin.as_ref().filter(|_| frame.kind == FrameKind::Stdin) else {
            continue;
        };
        agent.touch();
        let taken = !frame.payload.is_empty()
            && tokio::select! {
                taken = write_all(pipe, &frame.payload) => taken,
                // A command that does not read must not hide that the host has left.
                () = recv.closed() => continue,
            };
        if !taken {
            *stdin = None;
        }
    }
}

/// Whether the command has taken all of `bytes`.
async fn write_all(pipe: &AsyncFd<OwnedFd>, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok(mut ready) = pipe.writable().await else { return false };
        match rustix::io::write(pipe.get_ref(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Nanoseconds that starting and reaping one small command takes, once the services run: whoever
/// asks wants to keep the guest as it is then. Zero if the image has no such command: one that was made of
/// a single program need not.
///
/// # Errors
/// It cannot be started.
pub(crate) async fn time_spawn(agent: &Arc<Agent>) -> Result<u64, WireError> {
    services::settle(agent).await;
    let request =
        Exec { argv: vec!["/bin/true".to_owned()], cwd: Some("/".to_owned()), ..Exec::default() };
    let command = Command::prepare(agent, &request)?;
    // Looks at the disk here, when nobody waits, and not at the first command.
    agent.jobs.count_on();
    let begin = std::time::Instant::now();
    let pid = match command.start_silent(agent) {
        Ok(pid) => pid,
        Err(error) if error.code == ErrorCode::CommandNotFound => {
            services::hold(agent);
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    // The reaper cannot come in between: it runs in this thread.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    let took = begin.elapsed();
    agent.learn_small_command(took);
    services::hold(agent);
    Ok(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}
