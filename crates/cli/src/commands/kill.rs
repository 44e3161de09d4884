use std::process::ExitCode;

use anyhow::Result;
use api::Kill;

use crate::app::{App, DONE};

/// Signal a detached job or a session
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Id of the job (see `bhatti jobs`) or of the session (see `bhatti ps`)
    id: String,
    /// Name or number of the signal [default: what an image says of its program, else TERM]
    #[arg(short, long)]
    signal: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, id, signal } = args;
    let request = Kill { signal: signal.clone() };
    let done = app.with_client(async |client| {
        Ok(if is_job(id) {
            client.job_kill(sandbox, id, &request).await?
        } else {
            client.session_kill(sandbox, id, &request).await?
        })
    })?;
    let line = match signal {
        Some(signal) => format!("{id} signalled ({signal})"),
        None => format!("{id} signalled"),
    };
    app.printer().outcome(&done, &line)?;
    DONE
}

/// Ids of jobs begin with a `j`; those of sessions with an `s`, or they are names such as `init`.
fn is_job(id: &str) -> bool {
    id.starts_with('j')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_says_what_it_is() {
        assert!(is_job("j1") && is_job("j20"));
        assert!(!is_job("s1") && !is_job("init"));
    }
}
