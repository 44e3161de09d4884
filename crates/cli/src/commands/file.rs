//! Files in a sandbox.

mod list;
mod read;
mod write;

use std::process::ExitCode;

use anyhow::Result;

use crate::app::App;

/// Read, write and list files in a sandbox
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Read(read::Args),
    Write(write::Args),
    #[command(name = "ls", visible_alias = "list")]
    List(list::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::Read(args) => read::run(args, app),
        Command::Write(args) => write::run(args, app),
        Command::List(args) => list::run(args, app),
    }
}
