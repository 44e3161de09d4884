//! Files in a sandbox.

mod append;
mod list;
mod mkdir;
mod read;
mod remove;
mod rename;
mod stat;
mod watch;
mod write;

use std::process::ExitCode;

use anyhow::Result;

pub(crate) use self::write::mode;
use crate::app::App;

/// Read, write and manage files in a sandbox
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Read(read::Args),
    Write(write::Args),
    Append(append::Args),
    #[command(name = "ls", visible_alias = "list")]
    List(list::Args),
    Stat(stat::Args),
    Mkdir(mkdir::Args),
    #[command(name = "mv")]
    Rename(rename::Args),
    #[command(name = "rm")]
    Remove(remove::Args),
    Watch(watch::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::Read(args) => read::run(args, app),
        Command::Write(args) => write::run(args, app),
        Command::Append(args) => append::run(args, app),
        Command::List(args) => list::run(args, app),
        Command::Stat(args) => stat::run(args, app),
        Command::Mkdir(args) => mkdir::run(args, app),
        Command::Rename(args) => rename::run(args, app),
        Command::Remove(args) => remove::run(args, app),
        Command::Watch(args) => watch::run(args, app),
    }
}
