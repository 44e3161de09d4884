//! Users. The daemon lets administrators do this.

mod create;
mod delete;
mod edit;
mod limits;
mod list;
mod rotate_key;
mod show;
mod traffic;

use std::process::ExitCode;

use anyhow::Result;
use api::UserKey;

use crate::{app::App, printer::Printer};

/// Manage users, as an administrator
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
    Show(show::Args),
    Edit(edit::Args),
    Delete(delete::Args),
    RotateKey(rotate_key::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::Create(args) => create::run(args, app),
        Command::List(args) => list::run(args, app),
        Command::Show(args) => show::run(args, app),
        Command::Edit(args) => edit::run(args, app),
        Command::Delete(args) => delete::run(args, app),
        Command::RotateKey(args) => rotate_key::run(args, app),
    }
}

/// Prints a key for the only time.
fn print_key(printer: &Printer, key: &UserKey, what: &str) -> Result<()> {
    let line = format!("user/{} {what}\nAPI key: {}", key.user.name, key.api_key);
    printer.outcome(key, &line)?;
    printer.note("the key is not shown again");
    Ok(())
}
