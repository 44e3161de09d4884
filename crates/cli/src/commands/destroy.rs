use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    prompt,
};

/// Destroy a sandbox with everything that it holds
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    if !prompt::confirm(printer, &format!("destroy sandbox/{}", args.sandbox), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let destroyed = app.with_client(async |client| Ok(client.destroy(&args.sandbox).await?))?;
    if let Some(warning) = &destroyed.warning {
        printer.note(&format!("warning: {warning}"));
    }
    printer.outcome(&destroyed, &format!("sandbox/{} destroyed", destroyed.name))?;
    DONE
}
