//! systemd beside the agent, in images that have it for their init.
//!
//! ```text
//!   agent, process 1 of the machine
//!     ├── systemd, process 1 of its own name spaces ── units
//!     └── commands, jobs and sessions, which join them
//! ```
//! It is started as a container manager would start it: it has its own process ids, its own part of
//! the control groups and its own view of `/proc`, shares everything else, and is kept from what is
//! the agent's or the host's: devices, the network, the console, the clock, the machine's identity.
//! If it ends by itself, commands run where the agent is.

mod files;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram as Socket;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal};
use tokio::net::UnixDatagram;
use tokio::sync::oneshot::Receiver;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::agent::{Agent, lock};
use crate::boot;
use crate::conf::Conf;
use crate::log;
use crate::reaper::Ended;
use crate::sys::{self, Beside, Launch, Place, Spawned};

/// How long it is waited until all services that are to run do; some wait for devices that never
/// come.
const SETTLED: Duration = Duration::from_secs(150);

/// Longest time that services stand still after the guest has become somebody, which a first command
/// waits for if it needs one of them.
const YOUR_TURN: Duration = Duration::from_millis(300);

/// Longest message of systemd to its manager.
const MESSAGE_MAX: usize = 4096;

/// What systemd is told on its command line; what the kernel was told is not meant for it.
const ARGUMENTS: [&str; 4] = ["--system", "--show-status=no", "--log-target=journal", "fstab=no"];

/// The services of a guest.
#[derive(Debug)]
pub(crate) struct Services {
    /// The program, if the image wants it.
    program: Option<PathBuf>,
    state: Mutex<State>,
    /// Whether there is nothing to wait for.
    settled: watch::Sender<bool>,
    /// Told when there is no reason any more for them to stand still.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    begun: bool,
    /// Whether they stand still.
    held: bool,
    running: Option<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    pid: Pid,
    beside: Arc<Beside>,
}

impl Services {
    /// Those of the guest whose root is at `root`; nothing is started yet.
    pub(crate) fn at(root: &Path) -> Self {
        // Only the root of a machine has an init; tests have directories.
        let wanted = || boot::services().unwrap_or_else(|| Conf::read(root).services);
        let program = (root == Path::new("/") && wanted()).then(program).flatten();
        let settled = watch::Sender::new(program.is_none());
        Self { program, state: Mutex::default(), settled, wanted: Notify::new() }
    }

    /// The guest's first command is over, or somebody wants to reach a service: if they stand still,
    /// they need not any longer.
    pub(crate) fn are_wanted(&self) {
        if lock(&self.state).held {
            self.wanted.notify_one();
        }
    }

    /// How to join them, if they run.
    pub(crate) fn beside(&self) -> Option<Arc<Beside>> {
        lock(&self.state).running.as_ref().map(|running| Arc::clone(&running.beside))
    }

    /// Waits until they need not stand still any longer; whether they do.
    async fn stand_still(&self) -> bool {
        if !lock(&self.state).held {
            return false;
        }
        let _over = timeout(YOUR_TURN, self.wanted.notified()).await;
        std::mem::take(&mut lock(&self.state).held)
    }

    /// Asks them to end, each in its order; whether there are any.
    pub(crate) fn power_off(&self) -> bool {
        let running = lock(&self.state).running.clone();
        running.is_some_and(|running| sys::ask_to_power_off(running.pid).is_ok())
    }

    /// Waits until none run.
    pub(crate) async fn over(&self) {
        let mut settled = self.settled.subscribe();
        while lock(&self.state).running.is_some() {
            if settled.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has them know the machine by `machine_id`, which is in its file already.
    ///
    /// # Errors
    /// The journal cannot be found under the new name.
    pub(crate) fn rename(&self, machine_id: &str) -> io::Result<()> {
        if lock(&self.state).running.is_some() { files::name_journal(machine_id) } else { Ok(()) }
    }
}

/// The image's init, if it is systemd.
fn program() -> Option<PathBuf> {
    let init = std::fs::canonicalize("/sbin/init").ok()?;
    init.ends_with("systemd/systemd").then_some(init)
}

/// Starts the services of the image, if it has any and they have not been started before.
pub(crate) fn begin(agent: &Arc<Agent>) {
    let services = &agent.services;
    let Some(program) = &services.program else { return };
    if std::mem::replace(&mut lock(&services.state).begun, true) {
        return;
    }
    match start(agent, program) {
        Ok((exited, messages)) => {
            tokio::spawn(attend(Arc::clone(agent), exited, messages));
        }
        Err(error) => {
            log::warn(&format!("services do not run: {error}"));
            services.settled.send_replace(true);
        }
    }
}

/// Starts them and waits until all of them run that are to, or for long enough.
pub(crate) async fn settle(agent: &Arc<Agent>) {
    begin(agent);
    let mut settled = agent.services.settled.subscribe();
    if timeout(SETTLED, settled.wait_for(|settled| *settled)).await.is_err() {
        log::warn("some services have not been started yet");
        agent.services.settled.send_replace(true);
    }
}

/// Has the services stand still until [`go_on`] if the guest is nobody yet: all of them notice when
/// the clock is set, and whoever waits for a new sandbox would wait for them to have done so.
pub(crate) fn hold(agent: &Agent) {
    let mut state = lock(&agent.services.state);
    if agent.identity().is_some() || state.running.is_none() {
        return;
    }
    state.held = true;
    if let Err(error) = files::freeze(true) {
        log::warn(&format!("services do not stand still: {error}"));
    }
}

/// Lets them go on now that the guest is somebody: after its first command, or when somebody wants to
/// reach one of them, or if neither happens for a while.
pub(crate) async fn go_on(agent: &Agent) {
    if agent.services.stand_still().await
        && let Err(error) = files::freeze(false)
    {
        log::warn(&format!("services do not go on: {error}"));
    }
}

fn start(agent: &Agent, program: &Path) -> io::Result<(Receiver<Ended>, UnixDatagram)> {
    let messages = files::set_up()?;
    let cgroup = directory(files::CGROUP)?;
    let joiners = directory(files::JOINERS)?;
    let text = |text: &str| CString::new(text).map_err(io::Error::other);
    let path = text(&program.to_string_lossy())?;
    let argv: Vec<CString> =
        [Ok(path.clone())].into_iter().chain(ARGUMENTS.map(text)).collect::<io::Result<_>>()?;
    let env = files::ENVIRONMENT.map(text).into_iter().collect::<io::Result<Vec<_>>>()?;
    let null = agent.null.as_fd();
    let launch = Launch {
        program: &path,
        argv: &argv,
        env: &env,
        cwd: &[c"/".to_owned()],
        user: None,
        stdio: [null; 3],
        terminal: false,
        place: Place::Apart(cgroup.as_fd()),
    };
    let (Spawned { pid, .. }, exited) = agent
        .reaper
        .adopt(|| sys::spawn(&launch))
        .map_err(|(stage, errno)| io::Error::other(format!("{stage:?}: {errno}")))?;
    let beside = Arc::new(Beside::new(pid, joiners)?);
    lock(&agent.services.state).running = Some(Running { pid, beside });
    messages.set_nonblocking(true)?;
    Ok((exited, UnixDatagram::from_std(messages)?))
}

fn directory(path: &str) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Looks after systemd until it ends.
async fn attend(agent: Arc<Agent>, mut exited: Receiver<Ended>, messages: UnixDatagram) {
    let ended = tokio::select! {
        biased;
        ended = &mut exited => ended,
        () = ready(&messages) => {
            log::info("services run");
            agent.services.settled.send_replace(true);
            exited.await
        }
    };
    lock(&agent.services.state).running = None;
    agent.services.settled.send_replace(true);
    let signal = ended.ok().and_then(|ended| ended.signal);
    // How the kernel tells that it has asked to turn off or restart what it believes the machine.
    let asked = [Signal::INT, Signal::HUP].map(Signal::as_raw);
    if signal.is_some_and(|signal| asked.contains(&signal)) {
        log::info("services have ended and want the machine off");
        agent.power_off.notify_one();
        return;
    }
    let how = signal.map_or_else(|| "ended".to_owned(), |signal| format!("killed by {signal}"));
    log::warn(&format!("systemd was {how}, and all services with it; commands run without it"));
}

/// Waits until systemd says that it has started what is to run.
async fn ready(messages: &UnixDatagram) {
    let mut message = [0; MESSAGE_MAX];
    loop {
        let Ok(count) = messages.recv(&mut message).await else {
            return std::future::pending().await;
        };
        if message[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return;
        }
    }
}

/// What systemd writes to its manager.
fn listen(path: &str) -> io::Result<Socket> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Socket::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PATIENCE;

    #[tokio::test]
    async fn services_stand_still_until_they_are_wanted_and_not_for_ever() {
        let services = Services::at(Path::new("/nowhere"));
        let at_once = || timeout(Duration::ZERO, services.stand_still());
        assert_eq!(at_once().await, Ok(false));
        // As they did not stand still, this is of no consequence.
        services.are_wanted();
        lock(&services.state).held = true;
        assert!(at_once().await.is_err());
        services.are_wanted();
        assert_eq!(at_once().await, Ok(true));
        lock(&services.state).held = true;
        assert_eq!(timeout(PATIENCE, services.stand_still()).await, Ok(true));
    }
}
