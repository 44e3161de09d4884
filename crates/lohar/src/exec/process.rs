//! A command that has been started, whoever listens to it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, Exec, Exited, WireError};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::command::Command;
use super::output::Outputs;
use crate::agent::{Agent, refuse};
use crate::reaper::Ended;
use crate::sys::{self, Spawned};

/// A timeout that is not one.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// See the module.
pub(crate) struct Process {
    pub(crate) started: Instant,
    own: Pid,
    pub(crate) life: Life,
    pub(crate) outputs: Outputs,
    /// Held open for as long as the command runs unless the host closes it.
    pub(crate) stdin: Option<AsyncFd<OwnedFd>>,
    /// Output that was read and that nobody got.
    pub(crate) unsent: Vec<(FrameKind, Vec<u8>)>,
}

/// When and how a command ends.
pub(crate) struct Life {
    pub(crate) pid: Pid,
    pub(crate) deadline: Instant,
    timed_out: bool,
    pub(super) exited: oneshot::Receiver<Ended>,
    pub(super) known: Option<Exited>,
}

impl Process {
    /// Starts what `request` asks for; with a pipe to its input if `stdin`.
    ///
    /// # Errors
    /// What failed, in the host's terms.
    pub(crate) fn start(
        agent: &Arc<Agent>,
        request: &Exec,
        stdin: bool,
    ) -> Result<Self, WireError> {
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
        let (stdin_reader, stdin) = if stdin {
            let (reader, writer) = pipe()?;
            let watched = rustix::io::ioctl_fionbio(&writer, true)
                .map_err(std::io::Error::from)
                .and_then(|()| sys::watch(writer, Interest::WRITABLE));
            let failed = |error| refuse(ErrorCode::Limit, format!("watch a pipe: {error}"));
            (Some(reader), Some(watched.map_err(failed)?))
        } else {
            (None, None)
        };
        let (Spawned { pid, own }, exited) = agent.reaper.adopt(|| {
            let stdin = stdin_reader.as_ref().unwrap_or(&agent.null);
            command.start([stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()])
        })?;
        let timeout = request.timeout_ms.map_or(FOREVER, Duration::from_millis).min(FOREVER);
        let started = Instant::now();
        let deadline = started + timeout;
        Ok(Self {
            started,
            own,
            life: Life { pid, deadline, timed_out: false, exited, known: None },
            outputs: Outputs::new(stdout, stderr),
            stdin,
            unsent: Vec::new(),
        })
    }

    /// Its number as it and those around it see it.
    pub(crate) fn pid(&self) -> i32 {
        self.own.as_raw_nonzero().get()
    }

    /// Lets whoever the command has left behind write on, so that it does not die of it.
    pub(crate) fn leave_behind(self) {
        let mut outputs = self.outputs;
        if outputs.is_open() {
            tokio::spawn(async move { outputs.discard().await });
        }
    }
}

impl Life {
    /// Waits for the end; kills the group when its time is up. Safe to abandon and call again.
    pub(crate) async fn ended(&mut self) -> Exited {
        if let Some(known) = &self.known {
            return known.clone();
        }
        if !self.timed_out {
            if let Ok(ended) = timeout_at(self.deadline, &mut self.exited).await {
                return self.note(ended);
            }
            self.timed_out = true;
            kill_group(self.pid);
        }
        let ended = (&mut self.exited).await;
        self.note(ended)
    }

    /// Remembers how it ended.
    pub(super) fn note(&mut self, ended: Result<Ended, RecvError>) -> Exited {
        let timed_out = self.timed_out;
        let lost = Exited { code: -1, signal: None, timed_out };
        let exited = ended.map_or(lost, |ended| ended.exited(timed_out));
        self.known.insert(exited).clone()
    }

    /// Ends it, if it has not ended.
    pub(crate) async fn kill(&mut self) {
        if self.known.is_none() {
            kill_group(self.pid);
            // It counts as running until it is reaped.
            self.ended().await;
        }
    }
}

/// Kills the command and all that it has started and not put elsewhere.
fn kill_group(pid: Pid) {
    // It may just have ended.
    let _ = kill_process_group(pid, Signal::KILL);
}
