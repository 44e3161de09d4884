//! Ctrl-C, or a polite kill, in a command that waits for something.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// What shells add to the number of a signal that ended a program.
const SIGNALLED: u8 = 128;

/// The signal by which somebody has ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted(SignalKind);

impl From<Interrupted> for ExitCode {
    /// As shells count: 130 after Ctrl-C.
    fn from(Interrupted(signal): Interrupted) -> Self {
        let number = u8::try_from(signal.as_raw_value()).unwrap_or_default();
        Self::from(SIGNALLED.saturating_add(number))
    }
}

/// Does `work`, unless a signal comes before it is done. It is dropped then, which ends its requests
/// and removes what it has begun here.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T>>,
) -> Result<Result<T, Interrupted>> {
    let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
    let mut interrupted = signal(interrupt).context("wait for Ctrl-C")?;
    let mut terminated = signal(terminate).context("wait for signals")?;
    tokio::select! {
        biased;
        outcome = work => outcome.map(Ok),
        _ = interrupted.recv() => Ok(Err(Interrupted(interrupt))),
        _ = terminated.recv() => Ok(Err(Interrupted(terminate))),
    }
}
