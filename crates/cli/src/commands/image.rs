//! Images.

mod build;
mod delete;
mod export;
mod import;
mod inspect;
mod keeper;
mod list;
mod prepare;
mod pull;
mod save;
mod share;

use std::process::ExitCode;

use anyhow::Result;

use crate::app::App;

/// Get, make and share the images that sandboxes are made of
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(visible_alias = "ls")]
    List(list::Args),
    #[command(visible_alias = "info")]
    Inspect(inspect::Args),
    Build(build::Args),
    Pull(pull::Args),
    Import(import::Args),
    Save(save::Args),
    Export(export::Args),
    Share(share::Args),
    Unshare(share::UnshareArgs),
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
    Prepare(prepare::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::List(args) => list::run(args, app),
        Command::Inspect(args) => inspect::run(args, app),
        Command::Build(args) => build::run(args, app),
        Command::Pull(args) => pull::run(args, app),
        Command::Import(args) => import::run(args, app),
        Command::Save(args) => save::run(args, app),
        Command::Export(args) => export::run(args, app),
        Command::Share(args) => share::run(args, app),
        Command::Unshare(args) => share::run_unshare(args, app),
        Command::Delete(args) => delete::run(args, app),
        Command::Prepare(args) => prepare::run(args, app),
    }
}

/// An image for the tests of all commands that print one.
#[cfg(test)]
fn image() -> api::Image {
    api::Image {
        name: "minimal".into(),
        digest: "0123456789abcdef".into(),
        size_mb: 190,
        source: "Debian bookworm, bootstrapped".into(),
        created_at: "2026-01-02T03:04:05Z".into(),
        scope: api::ImageScope::Global,
        owner: None,
        reference: None,
    }
}
