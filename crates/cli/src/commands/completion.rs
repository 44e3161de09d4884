use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::app::{App, DONE};

/// Print a completion script
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shell that it is for
    shell: Shell,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bhatti", &mut script);
    app.printer().bytes(&script)?;
    DONE
}
