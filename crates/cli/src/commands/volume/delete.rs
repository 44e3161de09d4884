use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    prompt,
};

/// Delete a volume that no sandbox has, and all that is on it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    if !prompt::confirm(printer, &format!("delete volume/{}", args.volume), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let deleted = app.with_client(async |client| Ok(client.delete_volume(&args.volume).await?))?;
    printer.outcome(&deleted, &format!("volume/{} deleted", deleted.name))?;
    DONE
}
