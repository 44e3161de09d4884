use std::process::ExitCode;

use anyhow::Result;

use crate::app::{App, DONE};

/// Add what comes on stdin to the end of a file
///
/// Each piece is in the file when it has arrived. A file that is missing is made.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    path: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, path } = args;
    let written = app.with_client(async |client| {
        Ok(client.file_append(sandbox, path, tokio::io::stdin()).await?)
    })?;
    let line = format!("{path} appended to ({} bytes)", written.size);
    app.printer().outcome(&written, &line)?;
    DONE
}
