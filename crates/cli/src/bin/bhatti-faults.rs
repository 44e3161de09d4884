//! The program `bhatti` with places at which tests make something go wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    bhatti::main()
}
