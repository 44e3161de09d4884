//! Chores of the workspace.
//!
//! ```text
//! tidy ─► workspace: what there is (cargo, git, files) ─► tidy/*: checks, pure ─► problems
//! ```

pub mod tidy;
pub mod workspace;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

const USAGE: &str = "usage: cargo run -p xtask -- tidy";

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(),
        _ => Ok(tidy::Outcome { problems: vec![USAGE.to_owned()], notes: Vec::new() }),
    };
    let (lines, code) = match outcome {
        Ok(outcome) if outcome.problems.is_empty() => (outcome.notes, ExitCode::SUCCESS),
        Ok(outcome) => ([outcome.notes, outcome.problems].concat(), ExitCode::FAILURE),
        Err(error) => (vec![format!("error: {error:#}")], ExitCode::FAILURE),
    };
    let mut stderr = io::stderr().lock();
    for line in lines {
        // Nothing is left to tell people by if this fails.
        let _ = writeln!(stderr, "{line}");
    }
    code
}
