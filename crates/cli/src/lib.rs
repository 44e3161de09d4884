//! The command line: one file a command under [`commands`], one [`printer`], one way to reach the
//! daemon ([`app`]).
//!
//! To add a command: a file in `commands/` with a `clap::Args` struct and its `run`, and one line
//! in the list in `commands/mod.rs`.
//!
//! Invariant: data goes to stdout, words for people go to stderr, and whatever went wrong the exit
//! code is not 0.

mod app;
mod archive;
mod commands;
mod config;
mod failure;
mod human;
mod printer;
mod progress;
mod prompt;
mod table;
mod terminal;

use std::{process::ExitCode, time::Instant};

use clap::Parser as _;

/// The guest agent, as a static executable for this machine's architecture.
pub static LOHAR: &[u8] = include_bytes!(env!("BHATTI_LOHAR"));

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let started = Instant::now();
    let cli = commands::Cli::parse();
    let app = app::App::new(cli.global, started);
    match cli.command.run(&app) {
        Ok(code) => code,
        Err(error) => failure::report(app.printer(), &error),
    }
}
