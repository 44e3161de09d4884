//! The first process inside every sandbox: boots the guest, then serves the host.
//!
//! ```text
//!   boot ─► wait for the host ─► session: exec, files, identity ─► (host gone) ─┐
//!                ▲                                                              │
//!                └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: nothing is done to a machine of which this is not the first process.

mod activity;
mod agent;
mod boot;
mod conf;
mod exec;
mod files;
mod identity;
mod interface;
mod jobs;
mod log;
mod parts;
mod port;
mod ports;
mod power;
mod reaper;
mod rest;
mod services;
mod session;
mod sessions;
mod sys;
#[cfg(test)]
mod testing;
mod tunnel;
mod users;
mod volumes;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::agent::Agent;
use crate::boot::Booted;
use crate::identity::Linux;
use crate::port::{Notice, PortStream, connected, open_port};

/// How long a thread that waited for the disk is kept for the next such wait.
const THREAD_KEEP: Duration = Duration::from_secs(1);

/// Threads that wait for the disk at once.
const THREADS_MAX: usize = 4;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        let printed = writeln!(io::stdout(), "lohar {}", env!("CARGO_PKG_VERSION"));
        return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if !power::is_init() {
        let _ = writeln!(
            io::stderr(),
            "lohar is the first process of a bhatti sandbox and does nothing anywhere else"
        );
        return ExitCode::FAILURE;
    }
    let reason = match boot::run() {
        Err(error) => format!("the guest cannot boot: {error}"),
        Ok(booted) => match live(&booted) {
            Err(error) => format!("the agent cannot go on: {error}"),
            Ok(never) => match never {},
        },
    };
    log::fatal(&reason);
    power::at_once()
}

/// Serves until the guest is turned off.
fn live(booted: &Booted) -> io::Result<std::convert::Infallible> {
    // Before anything that might start a thread.
    sys::block_signals(&reaper::SIGNALS)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX)
        .thread_keep_alive(THREAD_KEEP)
        .build()?;
    runtime.block_on(async {
        let agent = Arc::new(Agent::blank(PathBuf::from("/"), Box::new(Linux::new()?))?);
        let served = tokio::select! {
            stopped = agent.reaper.run() => stopped,
            () = agent.power_off.notified() => Ok(()),
            Err(error) = sessions(&agent, booted) => Err(error),
        };
        if let Err(error) = served {
            log::warn(&format!("stopping: {error}"));
        }
        power::off(&agent, &booted.disk).await
    })
}

/// One session after the other. The port is opened anew for each, and then the host is told that
/// the end of the last session has been noticed.
async fn sessions(agent: &Arc<Agent>, booted: &Booted) -> io::Result<std::convert::Infallible> {
    log::info("waiting for the host");
    let notice = Notice::new(open_port(&booted.notice)?)?;
    loop {
        let port = open_port(&booted.port)?;
        tokio::select! {
            biased;
            failed = notice.tell() => match failed? {},
            called = connected(&port) => called?,
        }
        if let Err(error) = session::serve(agent, PortStream::new(port)?).await {
            log::info(&format!("session ended: {error}"));
        }
    }
}
