use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    prompt,
};

/// Delete a backup from where it is kept
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id of the volume, which need not be there any more
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Id of the backup
    #[arg(long, value_name = "ID")]
    backup_id: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    if !prompt::confirm(printer, &format!("delete backup/{}", args.backup_id), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let deleted = app.with_client(async |client| {
        Ok(client.delete_backup(&args.volume, &args.backup_id).await?)
    })?;
    printer.outcome(&deleted, &format!("backup/{} deleted", deleted.id))?;
    DONE
}
