//! The commands. Each file has a `clap::Args` struct and its `run`; what a command says of itself
//! in `--help` is the comment on its struct.

mod bench;
mod ca;
mod changes;
mod completion;
mod cp;
mod create;
mod destroy;
mod doctor;
mod edit;
mod egress;
mod exec;
mod file;
mod fork;
mod forward;
mod host_tools;
mod idle;
mod image;
mod inspect;
mod interrupt;
mod jobs;
mod kernel;
mod key_value;
mod kill;
mod list;
mod logs;
mod network;
mod pause;
mod ports;
mod preparing;
mod ps;
mod publish;
mod published;
mod resume;
mod serve;
mod setup;
mod share;
mod shares;
mod shell;
mod snapshot;
mod start;
mod stop;
mod system;
mod traffic;
mod unpublish;
mod user;
mod version;
mod volume;

use std::process::ExitCode;

use anyhow::Result;

use crate::app::{App, Global};

/// Real Linux VMs that manage themselves
#[derive(Debug, clap::Parser)]
#[command(name = "bhatti", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Makes the enum of all commands and calls the one that was asked for.
macro_rules! commands {
    ($($(#[$attribute:meta])* $variant:ident($module:ident),)+) => {
        #[derive(Debug, clap::Subcommand)]
        pub(crate) enum Command {
            $($(#[$attribute])* $variant($module::Args),)+
        }

        impl Command {
            /// Does it, and gives the exit code.
            pub(crate) fn run(&self, app: &App) -> Result<ExitCode> {
                match self {
                    $(Self::$variant(args) => $module::run(args, app),)+
                }
            }
        }
    };
}

commands! {
    Serve(serve),
    Create(create),
    #[command(visible_alias = "ls")]
    List(list),
    #[command(visible_alias = "info")]
    Inspect(inspect),
    Exec(exec),
    #[command(visible_alias = "sh")]
    Shell(shell),
    Ps(ps),
    Jobs(jobs),
    Logs(logs),
    Kill(kill),
    File(file),
    Cp(cp),
    Ports(ports),
    Forward(forward),
    Publish(publish),
    Unpublish(unpublish),
    Published(published),
    Share(share),
    Shares(shares),
    Stop(stop),
    Start(start),
    Pause(pause),
    Resume(resume),
    #[command(visible_alias = "rm")]
    Destroy(destroy),
    Edit(edit),
    Fork(fork),
    Egress(egress),
    Snapshot(snapshot),
    Volume(volume),
    Image(image),
    Kernel(kernel),
    Doctor(doctor),
    Bench(bench),
    User(user),
    Network(network),
    System(system),
    Ca(ca),
    Setup(setup),
    Version(version),
    Completion(completion),
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    /// Reads a line whose words have no spaces in them.
    pub(crate) fn try_args(line: &str) -> Result<Command, clap::Error> {
        let words = ["bhatti"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no text", command.get_name());
        }
    }

    #[test]
    fn the_short_names_lead_to_the_same_commands() {
        for (short, long) in
            [("ls", "list"), ("info a", "inspect a"), ("rm a", "destroy a"), ("sh a", "shell a")]
        {
            let parse = |line| format!("{:?}", try_args(line).unwrap());
            assert_eq!(parse(short), parse(long));
        }
    }
}
