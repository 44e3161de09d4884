//! Places that do something.

use std::{
    env,
    fs::File,
    io,
    io::Write as _,
    path::PathBuf,
    process,
    sync::{Mutex, OnceLock, PoisonError},
};

use fs_err as fs;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal},
};

use super::plan::{Action, Plan};

const FAULT: &str = "BHATTI_FAULT";
const FILE: &str = "BHATTI_FAULT_FILE";
const TRACE: &str = "BHATTI_FAULT_TRACE";
/// The exit status of a process that was told something that it does not understand.
const MISUSED: i32 = 2;

type Monitors = Box<dyn Fn() -> Vec<i32> + Send + Sync>;

/// Whom the action `vmm` kills.
static MONITORS: OnceLock<Monitors> = OnceLock::new();
/// `None` until the environment was looked at.
static FAULTS: Mutex<Option<Faults>> = Mutex::new(None);

struct Faults {
    plan: Plan,
    file: Option<PathBuf>,
    trace: Option<PathBuf>,
    /// Locked while a place is passed, so that whoever arms and disarms knows what has happened by then.
    lock: Option<File>,
}

impl Faults {
    fn from_environment() -> io::Result<Self> {
        let plan = env::var(FAULT).unwrap_or_default();
        let path = |name| env::var_os(name).map(PathBuf::from);
        let (file, trace) = (path(FILE), path(TRACE));
        let lock = file.as_ref().map(|file| super::lock_file(file)).transpose()?;
        Ok(Self { plan: parse(FAULT, &plan)?, file, trace, lock })
    }

    fn pass(&mut self, place: &str) -> io::Result<Option<Action>> {
        if let Some(lock) = &self.lock {
            lock.lock()?;
        }
        let passed = self.pass_alone(place);
        if let Some(lock) = &self.lock {
            lock.unlock()?;
        }
        passed
    }

    fn pass_alone(&mut self, place: &str) -> io::Result<Option<Action>> {
        if let Some(file) = &self.file
            && let Ok(text) = fs::read_to_string(file)
        {
            fs::remove_file(file)?;
            self.plan = parse(FILE, &text)?;
        }
        let action = self.plan.pass(place);
        if let Some(trace) = &self.trace {
            let happens = action.map_or(String::new(), |action| format!("={}", action.name()));
            let mut trace = fs::OpenOptions::new().create(true).append(true).open(trace)?;
            trace.write_all(format!("{place}{happens}\n").as_bytes())?;
        }
        Ok(action)
    }
}

fn parse(from: &str, text: &str) -> io::Result<Plan> {
    Plan::parse(text)
        .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, format!("{from}: {why}")))
}

/// Takes up what the environment says, and says whom the action `vmm` kills.
///
/// # Errors
/// If it says what is not understood.
pub fn prepare(monitors: impl Fn() -> Vec<i32> + Send + Sync + 'static) -> io::Result<()> {
    // In a process with several daemons it is the monitors of the first.
    let _ = MONITORS.set(Box::new(monitors));
    Faults::from_environment().map(drop)
}

/// A step has been reached, and what comes next may fail.
///
/// # Errors
/// What a test asked for, such as a full disk.
pub fn point(name: &'static str) -> io::Result<()> {
    let action = {
        let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = match &mut *faults {
            Some(known) => known.pass(name),
            none => Faults::from_environment().and_then(|new| none.insert(new).pass(name)),
        };
        passed.unwrap_or_else(|error| misused(&error))
    };
    match action {
        None => Ok(()),
        Some(Action::Kill) => die(),
        Some(Action::Both) => {
            monitors().into_iter().for_each(|pid| drop(kill(pid)));
            die()
        }
        Some(Action::Vmm) => {
            let killed: Vec<_> = monitors().into_iter().map(kill).collect();
            killed.into_iter().flatten().try_for_each(|dying| gone(&dying))
        }
        Some(Action::NoSpace) => Err(rustix::io::Errno::NOSPC.into()),
        Some(Action::Io) => Err(rustix::io::Errno::IO.into()),
    }
}

fn monitors() -> Vec<i32> {
    MONITORS.get().map(|list| list()).unwrap_or_default()
}

/// Kills a process; `None` if it is gone already.
fn kill(pid: i32) -> Option<rustix::fd::OwnedFd> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    pidfd_send_signal(&process, Signal::KILL).ok()?;
    Some(process)
}

/// Waits for the end of a process.
fn gone(process: &rustix::fd::OwnedFd) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

#[expect(clippy::print_stderr, clippy::exit, reason = "a test that arms nothing must not go on")]
fn misused(error: &io::Error) -> ! {
    eprintln!("error: the faults for tests: {error}");
    process::exit(MISUSED)
}
