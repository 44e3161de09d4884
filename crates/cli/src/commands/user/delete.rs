use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    prompt,
};

/// Delete a user who has no sandboxes and snapshots
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    user: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    if !prompt::confirm(printer, &format!("delete user/{}", args.user), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let deleted = app.with_client(async |client| Ok(client.delete_user(&args.user).await?))?;
    printer.outcome(&deleted, &format!("user/{} deleted", deleted.name))?;
    DONE
}
