use std::process::ExitCode;

use anyhow::Result;
use api::MakeDirectory;

use super::write::mode;
use crate::app::{App, DONE};

/// Make a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    path: String,
    /// Make missing parents too; a directory that is there is no error
    #[arg(short, long)]
    parents: bool,
    /// Permission bits in octal [default: 0755]
    #[arg(long, value_parser = mode)]
    mode: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, path, parents, mode } = args;
    let request = MakeDirectory { path: path.clone(), mode: mode.clone(), parents: *parents };
    let done =
        app.with_client(async |client| Ok(client.make_directory(sandbox, &request).await?))?;
    app.printer().outcome(&done, &format!("{path} made"))?;
    DONE
}
