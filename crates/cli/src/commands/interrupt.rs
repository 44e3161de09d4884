//! Ctrl-C in a command that waits for something.

use anyhow::{Context as _, Result};

/// What a program that was ended by SIGINT exits with, as shells count.
pub(crate) const INTERRUPTED: u8 = 130;

/// Does `work`; `None` if it was interrupted. It is dropped then, which ends its requests.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    tokio::select! {
        biased;
        outcome = work => outcome.map(Some),
        pressed = tokio::signal::ctrl_c() => pressed.context("wait for Ctrl-C").map(|()| None),
    }
}
