//! Named snapshots.

mod create;
mod delete;
mod inspect;
mod list;
mod resume;

use std::process::ExitCode;

use anyhow::Result;

use crate::app::App;

/// Keep what sandboxes are under a name, and make sandboxes of it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(create::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    #[command(visible_alias = "info")]
    Inspect(inspect::Args),
    Resume(resume::Args),
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::Create(args) => create::run(args, app),
        Command::List(args) => list::run(args, app),
        Command::Inspect(args) => inspect::run(args, app),
        Command::Resume(args) => resume::run(args, app),
        Command::Delete(args) => delete::run(args, app),
    }
}
