use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    prompt,
};

/// Delete a snapshot; sandboxes that were made of it go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    if !prompt::confirm(printer, &format!("delete snapshot/{}", args.snapshot), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let deleted =
        app.with_client(async |client| Ok(client.delete_snapshot(&args.snapshot).await?))?;
    printer.outcome(&deleted, &format!("snapshot/{} deleted", deleted.name))?;
    DONE
}
