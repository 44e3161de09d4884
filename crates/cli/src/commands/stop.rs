use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    app::{App, DONE},
    human, progress,
};

/// Stop a sandbox: the whole VM goes to disk and its memory is freed; the next use wakes it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let sandbox = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = client.stop(&args.sandbox, |step| {
            tell.send_replace(step);
        });
        Ok(progress::show(app.printer(), steps, work).await?)
    })?;
    let mut line =
        format!("sandbox/{} stopped in {}", sandbox.name, human::duration(start.elapsed()));
    if let Some(size) = sandbox.snapshot_size_mb {
        line.push_str(&format!(" ({size} MB on disk)"));
    }
    app.printer().outcome(&sandbox, &line)?;
    DONE
}
