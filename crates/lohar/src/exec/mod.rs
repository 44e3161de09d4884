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

mod command;
mod output;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use proto::frame::{Frame, FrameKind};
use proto::message::{ErrorCode, Exec, Exited, Response, WireError};
use proto::mux::{MuxError, RecvHalf, SendHalf};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use self::command::Command;
use self::output::{Outputs, Tail};
use crate::agent::{Agent, Running, refuse};
use crate::log;
use crate::reaper::Ended;
use crate::sys;

/// How long a command may take for its start, output and end to be told together. Telling them one
/// by one costs an emulated guest more than the command itself; waiting longer would only delay the
/// first output of a longer one. It is twice what a small command takes here, within these bounds.
const TOGETHER: RangeInclusive<Duration> = Duration::from_millis(4)..=Duration::from_millis(50);

/// A timeout that is not one.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// A started command.
struct Job {
    agent: Arc<Agent>,
    pid: Pid,
    exited: oneshot::Receiver<Ended>,
    deadline: Instant,
    timed_out: bool,
    outputs: Outputs,
    /// Held open for as long as the command runs unless the host closes it.
    stdin: Option<AsyncFd<OwnedFd>>,
    _running: Running,
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
    let mut job = match Job::start(agent, request) {
        Ok(job) => job,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
            return;
        }
    };
    match job.attend(&mut send, &mut recv).await {
        Served::Told => {
            if job.outputs.is_open() {
                // Whoever the command has left behind must not die of writing.
                tokio::spawn(async move { job.outputs.drain_all(|_| ()).await });
            }
        }
        Served::ClientGone => {
            if !job.exited.is_terminated() {
                kill_group(job.pid);
                // It counts as running until it is reaped.
                let _ = job.exited.await;
            }
        }
        Served::SessionLost => {
            tokio::spawn(job.live_on());
        }
    }
}

impl Job {
    fn start(agent: &Arc<Agent>, request: &Exec) -> Result<Self, WireError> {
        let running = agent.begin_command()?;
        let command = Command::prepare(agent, request)?;
        let pipe = || {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)
                .map_err(|errno| refuse(ErrorCode::Limit, format!("make a pipe: {errno}")))?;
            // Both ends are one inode.
            command
                .own(writer.as_fd())
                .map_err(|error| refuse(ErrorCode::Failed, format!("give a pipe away: {error}")))?;
            Ok::<_, WireError>((reader, writer))
        };
        let (stdout, stdout_writer) = pipe()?;
        let (stderr, stderr_writer) = pipe()?;
        let (stdin_reader, stdin) = if request.stdin {
            let (reader, writer) = pipe()?;
            let watched = rustix::io::ioctl_fionbio(&writer, true)
                .map_err(std::io::Error::from)
                .and_then(|()| sys::watch(writer, Interest::WRITABLE));
            let failed = |error| refuse(ErrorCode::Limit, format!("watch a pipe: {error}"));
            (Some(reader), Some(watched.map_err(failed)?))
        } else {
            (None, None)
        };
        let (pid, exited) = agent.reaper.adopt(|| {
            let stdin = stdin_reader.as_ref().unwrap_or(&agent.null);
            command.start([stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()])
        })?;
        let timeout = request.timeout_ms.map_or(FOREVER, Duration::from_millis).min(FOREVER);
        Ok(Self {
            agent: Arc::clone(agent),
            pid,
            exited,
            deadline: Instant::now() + timeout,
            timed_out: false,
            outputs: Outputs::new(stdout, stderr),
            stdin,
            _running: running,
        })
    }

    async fn attend(&mut self, send: &mut SendHalf, recv: &mut RecvHalf) -> Served {
        // Whoever has input to send waits for the announcement.
        let small = match self.stdin {
            Some(_) => Duration::ZERO,
            None => self.agent.small_command().saturating_mul(2),
        };
        let wait = small.clamp(*TOGETHER.start(), *TOGETHER.end());
        let together = self.deadline.min(Instant::now() + wait);
        let early = timeout_at(together, async {
            tokio::select! {
                biased;
                ended = &mut self.exited => Err(ended.ok()),
                frame = recv.recv() => Ok(frame),
            }
        });
        let first = match early.await {
            Ok(Err(ended)) => {
                let told = self.tell_all(send, ended).await;
                return told.map_or_else(Served::from, |()| Served::Told);
            }
            Ok(Ok(frame)) => Some(frame),
            Err(_elapsed) => None,
        };
        let started =
            Response::Started { pid: self.pid.as_raw_nonzero().get(), job: String::new() };
        if let Err(error) = send.send_json(&started).await {
            return error.into();
        }
        if let Err(error) = self.outputs.watch() {
            log::warn(&format!("watch the output of a command: {error}"));
            return Served::ClientGone;
        }
        let (sender, mut ended) = oneshot::channel();
        let feed = feed(&self.agent, first, &mut self.stdin, recv);
        let supervise = supervise(self.pid, self.deadline, &mut self.timed_out, &mut self.exited);
        let supervise = async {
            // The pump waits for it unless the command is of no more interest.
            let _ = sender.send(supervise.await);
            std::future::pending::<Served>().await
        };
        let pumped = tokio::select! {
            biased;
            pumped = pump(&mut self.outputs, send, &mut ended) => pumped,
            gone = feed => return gone,
            never = supervise => return never,
        };
        match pumped {
            Err(error) => error.into(),
            Ok(ended) => {
                let told = self.tell_rest(send, ended).await;
                told.map_or_else(Served::from, |()| Served::Told)
            }
        }
    }

    async fn tell_all(
        &mut self,
        send: &mut SendHalf,
        ended: Option<Ended>,
    ) -> Result<(), MuxError> {
        send.send_json(&Response::Started {
            pid: self.pid.as_raw_nonzero().get(),
            job: String::new(),
        })
        .await?;
        self.tell_rest(send, ended).await
    }

    async fn tell_rest(
        &mut self,
        send: &mut SendHalf,
        ended: Option<Ended>,
    ) -> Result<(), MuxError> {
        for (kind, piece) in self.outputs.drain() {
            send.send_data(kind, &piece).await?;
        }
        let lost = Exited { code: -1, signal: None, timed_out: self.timed_out };
        let exited = ended.map_or(lost, |ended| ended.exited(self.timed_out));
        send.send_json(&Response::Exited(exited)).await
    }

    /// Goes on without a host until the command ends, so that it never blocks on its output.
    async fn live_on(mut self) {
        let mut tail = Tail::default();
        let ended = {
            let supervise =
                supervise(self.pid, self.deadline, &mut self.timed_out, &mut self.exited);
            let mut supervise = std::pin::pin!(supervise);
            tokio::select! {
                ended = &mut supervise => ended,
                () = self.outputs.drain_all(|piece| tail.push(piece)) => supervise.await,
            }
        };
        for (_, piece) in self.outputs.drain() {
            tail.push(&piece);
        }
        let code = ended.map_or(-1, |ended| ended.code);
        let (pid, total, last) = (self.pid, tail.total(), tail.last_line());
        let pid = pid.as_raw_nonzero();
        log::info(&format!(
            "detached command {pid} ended with {code} after {total} bytes of output: {last}"
        ));
        drop(self.stdin);
        if self.outputs.is_open() {
            let mut outputs = self.outputs;
            tokio::spawn(async move { outputs.drain_all(|_| ()).await });
        }
    }
}

/// Kills the command and all that it has started and not put elsewhere.
fn kill_group(pid: Pid) {
    // It may just have ended.
    let _ = kill_process_group(pid, Signal::KILL);
}

/// Waits for the exit; kills the group when its time is up. Safe to abandon and call again.
async fn supervise(
    pid: Pid,
    deadline: Instant,
    timed_out: &mut bool,
    exited: &mut oneshot::Receiver<Ended>,
) -> Option<Ended> {
    if exited.is_terminated() {
        return None;
    }
    if !*timed_out {
        if let Ok(ended) = timeout_at(deadline, &mut *exited).await {
            return ended.ok();
        }
        *timed_out = true;
        kill_group(pid);
    }
    exited.await.ok()
}

/// Sends output as it comes until the command has ended.
async fn pump(
    outputs: &mut Outputs,
    send: &mut SendHalf,
    ended: &mut oneshot::Receiver<Option<Ended>>,
) -> Result<Option<Ended>, MuxError> {
    loop {
        tokio::select! {
            biased;
            ended = &mut *ended => return Ok(ended.ok().flatten()),
            (kind, piece) = outputs.next() => send.send_data(kind, piece).await?,
        }
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

/// Nanoseconds that starting and reaping one small command takes.
///
/// # Errors
/// It cannot be started.
pub(crate) fn time_spawn(agent: &Agent) -> Result<u64, WireError> {
    let request =
        Exec { argv: vec!["/bin/true".to_owned()], cwd: Some("/".to_owned()), ..Exec::default() };
    let command = Command::prepare(agent, &request)?;
    let begin = std::time::Instant::now();
    let pid = command.start_silent(agent)?;
    // The reaper cannot come in between: it runs in this thread.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    let took = begin.elapsed();
    agent.learn_small_command(took);
    Ok(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}
