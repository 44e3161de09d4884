use std::process::ExitCode;

use anyhow::Result;

use crate::app::{App, DONE};

/// Remove a file, or with -r a directory and all that is in it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    path: String,
    /// A directory with all that is in it
    #[arg(short, long)]
    recursive: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, path, recursive } = args;
    let done =
        app.with_client(async |client| Ok(client.file_remove(sandbox, path, *recursive).await?))?;
    app.printer().outcome(&done, &format!("{path} removed"))?;
    DONE
}
