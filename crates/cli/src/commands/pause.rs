use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    app::{App, DONE},
    human,
};

/// Pause a sandbox: it keeps its memory and uses no CPU
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let sandbox = app.with_client(async |client| Ok(client.pause(&args.sandbox).await?))?;
    let line = format!("sandbox/{} paused in {}", sandbox.name, human::duration(start.elapsed()));
    app.printer().outcome(&sandbox, &line)?;
    DONE
}
