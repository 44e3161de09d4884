//! Turning the guest off without losing what it has written.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::sync;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal};
use rustix::system::{RebootCommand, reboot};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::{log, sys};

/// How long processes have to end by themselves, and then to be gone.
const GRACE: Duration = Duration::from_secs(2);

/// How long services have to end in their order.
const SERVICES_GRACE: Duration = Duration::from_secs(10);

/// Ends everything and powers off. The reaper must go on meanwhile. `disk` is the root directory
/// of the writable disk.
pub(crate) async fn off(agent: &Agent, disk: &OwnedFd) -> ! {
    log::info("powering off");
    agent.jobs.freeze();
    if agent.services.power_off() {
        // What takes longer is killed, as everything is.
        let _ = timeout(SERVICES_GRACE, reaping(agent, agent.services.over())).await;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        if sys::kill_all(signal) == Err(Errno::SRCH) {
            break;
        }
        if timeout(GRACE, reaping(agent, agent.reaper.childless())).await.is_ok() {
            break;
        }
    }
    agent.jobs.flush();
    sync();
    agent.volumes.put_away();
    let below = format!("/proc/self/fd/{}", disk.as_raw_fd());
    for path in ["/", &below] {
        if let Err(errno) = mount_remount(path, MountFlags::RDONLY, c"") {
            log::warn(&format!("make {path} read-only: {errno}"));
        }
    }
    sync();
    at_once()
}

/// Reaps until `done`.
async fn reaping(agent: &Agent, done: impl Future<Output = ()>) {
    let reap = async {
        // Told again to stop, it has still to reap.
        while agent.reaper.run().await.is_ok() {}
    };
    tokio::select! {
        () = done => {}
        () = reap => {}
    }
}

/// Turns the machine off without further ado.
pub(crate) fn at_once() -> ! {
    for command in [RebootCommand::PowerOff, RebootCommand::Restart, RebootCommand::Halt] {
        // Each returns only if it cannot.
        let _ = reboot(command);
    }
    loop {
        // The first process must not end.
        rustix::event::pause();
    }
}

/// Whether this is the first process, without which nothing here may be done.
pub(crate) fn is_init() -> bool {
    rustix::process::getpid() == Pid::INIT
}
