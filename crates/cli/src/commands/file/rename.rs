use std::process::ExitCode;

use anyhow::Result;
use api::MoveFile;

use crate::app::{App, DONE};

/// Give a file or directory another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    from: String,
    /// The new absolute path: a name, never a directory to move into
    to: String,
    /// Replace a file that is there
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, from, to, force } = args;
    let request = MoveFile { from: from.clone(), to: to.clone(), replace: *force };
    let done = app.with_client(async |client| Ok(client.move_file(sandbox, &request).await?))?;
    app.printer().outcome(&done, &format!("{from} is now {to}"))?;
    DONE
}
