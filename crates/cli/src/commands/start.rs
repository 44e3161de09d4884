use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use api::{StartFrom, StartSandbox};

use crate::{
    app::{App, DONE},
    human, progress,
};

/// Start a stopped or failed sandbox
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// What to bring it back from: its saved memory, or only its disk [default: what keeps most]
    #[arg(long, value_enum)]
    from: Option<From>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum From {
    /// Its saved memory: every process goes on
    Snapshot,
    /// The memory saved before that, if it was kept: everything later is lost
    Previous,
    /// Its disk: it boots, and the saved memory is given up
    Disk,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = StartSandbox {
        from: args.from.map(|from| match from {
            From::Snapshot => StartFrom::Snapshot,
            From::Previous => StartFrom::Previous,
            From::Disk => StartFrom::Disk,
        }),
    };
    let start = Instant::now();
    let sandbox = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = client.start(&args.sandbox, &request, |step| {
            tell.send_replace(step);
        });
        Ok(progress::show(app.printer(), steps, work).await?)
    })?;
    let mut line = format!("sandbox/{} started", sandbox.name);
    if let Some(from) = &sandbox.started_from {
        line.push_str(&format!(" (from {from})"));
    }
    line.push_str(&format!(" in {}", human::duration(start.elapsed())));
    app.printer().outcome(&sandbox, &line)?;
    DONE
}
