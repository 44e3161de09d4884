//! The one door to processes.
//!
//! [`Command`] runs a tool to its end and turns failure into an error that names the command and
//! quotes the end of its stderr. [`Process`] is a long-lived process held by a pidfd: its exit is
//! an event, killing it can never hit a recycled pid, and it can be taken up again by a later
//! daemon through its pid and start time.

use std::{
    ffi::OsStr,
    fmt, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::watch;

/// How much of a failed tool's stderr an error quotes, in bytes.
const STDERR_QUOTED: usize = 2000;

/// Where tools are looked for; the daemon's own environment is not handed down.
const TOOL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tool that could not be run or that failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not installed.
    #[error("{program} is not installed")]
    Missing {
        /// The program's name.
        program: String,
    },
    /// The program could not be started or waited for.
    #[error("run {program}")]
    Spawn {
        /// The program's name.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program ran and failed.
    #[error("{program} failed with {status}: {stderr}")]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
}

/// A program to run with a clean environment.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    program: String,
}

impl Command {
    /// A command with no arguments, nothing on stdin and an environment of `PATH` and `LC_ALL`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the door")]
        let mut inner = std::process::Command::new(program.as_ref());
        inner.env_clear().env("PATH", TOOL_PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Self { inner, program: program.as_ref().to_string_lossy().into_owned() }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds several arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets one environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Runs the program in `directory`.
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.inner.current_dir(directory);
        self
    }

    /// Gives the program this as its standard input.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.inner.stdin(from);
        self
    }

    /// Sends the program's standard output there.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.inner.stdout(to);
        self
    }

    /// Sends the program's standard error there.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.inner.stderr(to);
        self
    }

    /// The builder below, for what only a sandboxed child needs.
    pub fn as_std_mut(&mut self) -> &mut std::process::Command {
        &mut self.inner
    }

    /// Runs the program to its end and returns its standard output. Blocks.
    ///
    /// # Errors
    /// [`ProcessError`] if it is missing, cannot run, or ends with anything but status 0.
    pub fn output(mut self) -> Result<Vec<u8>, ProcessError> {
        let output = self
            .inner
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|source| spawn_error(&self.program, source))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = &output.stderr[output.stderr.len().saturating_sub(STDERR_QUOTED)..];
        Err(ProcessError::Failed {
            program: self.program,
            status: output.status,
            stderr: String::from_utf8_lossy(stderr).trim().to_owned(),
        })
    }

    /// Starts the program as a [`Process`]. Needs a tokio runtime with I/O.
    pub fn spawn(mut self) -> Result<Process, ProcessError> {
        let program = &self.program;
        let child = self.inner.spawn().map_err(|source| spawn_error(program, source))?;
        let pid = Pid::from_child(&child);
        Process::open(pid, Ownership::Child)
            .map_err(|source| ProcessError::Spawn { program: self.program, source })
    }

    /// Starts the program as a plain child whose pipes the caller reads.
    pub fn spawn_child(mut self) -> Result<std::process::Child, ProcessError> {
        self.inner.spawn().map_err(|source| spawn_error(&self.program, source))
    }
}

fn spawn_error(program: &str, source: io::Error) -> ProcessError {
    match source.kind() {
        io::ErrorKind::NotFound => ProcessError::Missing { program: program.to_owned() },
        _ => ProcessError::Spawn { program: program.to_owned(), source },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// Our own child: it has to be reaped.
    Child,
    /// A process of an earlier daemon: init reaps it.
    Adopted,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was not our child, so nobody told us.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => {
                write!(f, "{}", ExitStatus::from_raw(*signal))
            }
            Self::Unknown => f.write_str("an exit that nobody saw"),
        }
    }
}

/// A running process held by a pidfd. Dropped, it is killed and reaped, unless
/// [`leave_running`](Self::leave_running) was called.
pub struct Process {
    pid: Pid,
    start_time: u64,
    pidfd: AsyncFd<OwnedFd>,
    ownership: Ownership,
    kill_on_drop: bool,
    /// How it ended, once somebody has reaped it: the kernel says it once.
    ended: Mutex<Option<Exit>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Process {
    fn open(pid: Pid, ownership: Ownership) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        let start_time = start_time(pid.as_raw_pid())?;
        let pidfd = watch(pidfd, Interest::READABLE)?;
        let ended = Mutex::new(None);
        Ok(Self { pid, start_time, pidfd, ownership, kill_on_drop: true, ended })
    }

    /// Takes up a process that an earlier daemon started. `None` if that very process, told by its
    /// start time, is gone.
    pub fn adopt(pid: i32, started: u64) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        match Self::open(pid, Ownership::Adopted) {
            Ok(process) if process.start_time == started && !is_zombie(process.pid()) => {
                Ok(Some(process))
            }
            Ok(mut other) => {
                other.leave_running();
                Ok(None)
            }
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Clock ticks after boot at which the process started: with the pid, its identity.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Do not kill the process when this value goes.
    pub fn leave_running(&mut self) {
        self.kill_on_drop = false;
    }

    /// Sends SIGKILL; that the process is gone already is no error.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd.get_ref().as_fd(), Signal::KILL);
    }

    /// Waits until the process has exited, reaps it if it is ours, and says how it ended.
    /// Whoever calls, however often, is told the same.
    pub async fn exited(&self) -> Exit {
        // The only failure is a runtime that is going away, in which case nobody looks any more.
        let _ = self.pidfd.readable().await;
        let pidfd = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        self.reap(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Kills the process and waits until it is gone.
    pub async fn kill_and_wait(&self) -> Exit {
        self.kill();
        self.exited().await
    }

    fn reap(&self, id: WaitId<'_>, options: WaitIdOptions) -> Exit {
        if self.ownership == Ownership::Adopted {
            return Exit::Unknown;
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *ended {
            return known;
        }
        let Ok(Some(status)) = waitid(id, options) else { return Exit::Unknown };
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (_, Some(signal)) => Exit::Signal(signal),
            _ => Exit::Unknown,
        };
        *ended = Some(exit);
        exit
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill_on_drop {
            self.kill();
            // By pid, because waiting on a non-blocking pidfd does not wait. The pid is still ours:
            // nobody else reaps it.
            self.reap(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        }
    }
}

/// The start time of a process in clock ticks after boot, field 22 of `/proc/PID/stat`.
pub fn start_time(pid: i32) -> io::Result<u64> {
    stat_field(pid, 19)?
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "start time in /proc/PID/stat"))
}

/// The user id that a process runs under, from `/proc/PID/status`.
pub fn real_uid(pid: i32) -> io::Result<u32> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Uid in /proc/PID/status"))
}

fn is_zombie(pid: i32) -> bool {
    stat_field(pid, 0).is_ok_and(|state| state == "Z" || state == "X")
}

/// A field of `/proc/PID/stat`, counted from the one after the command name, which may itself
/// hold spaces and brackets.
fn stat_field(pid: i32, index: usize) -> io::Result<String> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(index))
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "short /proc/PID/stat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_is_quoted() {
        let error = Command::new("sh").args(["-c", "echo why >&2; exit 3"]).output().unwrap_err();
        assert_eq!(error.to_string(), "sh failed with exit status: 3: why");
        let error = Command::new("no-such-tool").output().unwrap_err();
        assert_eq!(error.to_string(), "no-such-tool is not installed");
    }

    #[tokio::test]
    async fn an_exit_is_an_event_and_keeps_its_code() {
        let process = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let (one, other) = tokio::join!(process.exited(), process.exited());
        assert_eq!((one, other), (Exit::Code(7), Exit::Code(7)));
        assert_eq!(process.exited().await, Exit::Code(7), "also later");
        let process = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(process.kill_and_wait().await, Exit::Signal(9));
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone_and_reaped() {
        let process = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = process.pid();
        drop(process);
        assert!(start_time(pid).is_err());
    }

    #[tokio::test]
    async fn only_the_very_same_process_is_adopted() {
        let mut process = Command::new("sleep").arg("60").spawn().unwrap();
        process.leave_running();
        let (pid, started) = (process.pid(), process.start_time());
        assert!(Process::adopt(pid, started + 1).unwrap().is_none());
        let adopted = Process::adopt(pid, started).unwrap().unwrap();
        assert_eq!(adopted.kill_and_wait().await, Exit::Unknown);
        assert_eq!(process.exited().await, Exit::Signal(9));
        assert!(Process::adopt(pid, started).unwrap().is_none());
    }
}
