//! Images.

mod list;
mod prepare;

use std::process::ExitCode;

use anyhow::Result;

use crate::app::App;

/// Make and show the images that sandboxes are made of
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(visible_alias = "ls")]
    List(list::Args),
    Prepare(prepare::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::List(args) => list::run(args, app),
        Command::Prepare(args) => prepare::run(args, app),
    }
}
