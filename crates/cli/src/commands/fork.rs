use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use api::{ForkSandbox, MAX_FORKS, Sandbox};

use crate::{
    app::{App, DONE},
    human,
};

/// Copy a sandbox as it is now, memory and disk, without stopping it
///
/// What runs in it runs on, in the copies too: there, commands that somebody waits for go on as
/// detached jobs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Name of the copy, of several the beginning: NAME-1, NAME-2; made up if absent
    #[arg(long)]
    name: Option<String>,
    /// How many copies [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FORKS)))]
    count: Option<u32>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = ForkSandbox { name: args.name.clone(), count: args.count };
    let start = Instant::now();
    let copies =
        app.with_client(async |client| Ok(client.fork(&args.sandbox, &request).await?))?;
    app.printer().outcome(&copies, &told(&copies, &args.sandbox, start.elapsed()))?;
    DONE
}

/// A line a copy; they are there at the same moment.
fn told(copies: &[Sandbox], source: &str, took: Duration) -> String {
    let took = human::duration(took);
    let line = |copy: &Sandbox| format!("sandbox/{} forked from {source} in {took}", copy.name);
    copies.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{inspect::tests::sandbox, tests::try_args};

    #[test]
    fn every_copy_has_a_line() {
        let second = Sandbox { name: "dev-2".into(), ..sandbox() };
        assert_eq!(
            told(&[sandbox(), second], "base", Duration::from_millis(84)),
            "sandbox/dev forked from base in 84 ms\nsandbox/dev-2 forked from base in 84 ms"
        );
    }

    #[test]
    fn there_is_a_least_and_a_greatest_number_of_copies() {
        for (count, allowed) in [("1", true), ("100", true), ("0", false), ("101", false)] {
            assert_eq!(try_args(&format!("fork dev --count {count}")).is_ok(), allowed, "{count}");
        }
    }
}
