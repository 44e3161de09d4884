use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use api::ResumeSnapshot;

use crate::{
    app::{App, DONE},
    human, progress,
};

/// Make a sandbox that goes on where the snapshot was taken, as many times as you like
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Name of the new sandbox; made up if absent
    #[arg(long)]
    name: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = ResumeSnapshot { name: args.name.clone() };
    let start = Instant::now();
    let sandbox = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = client.resume_snapshot_watched(&args.snapshot, &request, |step| {
            tell.send_replace(step);
        });
        Ok(progress::show(app.printer(), steps, work).await?)
    })?;
    let line = format!(
        "sandbox/{} resumed from snapshot/{} in {}",
        sandbox.name,
        args.snapshot,
        human::duration(start.elapsed())
    );
    app.printer().outcome(&sandbox, &line)?;
    DONE
}
