//! Chores of the workspace: `cargo run -p xtask -- tidy`.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
