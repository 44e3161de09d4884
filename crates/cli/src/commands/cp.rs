//! Copying files and trees.

mod download;
pub(crate) mod meter;
mod place;
mod upload;

use std::{ffi::OsString, process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Result, bail};
use api::{ErrorCode, FileStat, client::Client};
use serde::Serialize;

use self::{meter::Meter, place::Side};
use super::interrupt::unless_interrupted;
use crate::{
    app::{App, DONE},
    failure::hinted,
    human,
    printer::Printer,
};

/// Copy files and trees between this machine and a sandbox
///
/// One of SRC and DST is SANDBOX:/PATH, the other a path of this machine, or - for a tar archive on
/// stdin or stdout. A directory is copied with all that is in it; SRC/. means what is in it and not
/// itself. If DST is a directory the copy is made in it, else it becomes DST.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to copy
    #[arg(value_name = "SRC")]
    from: OsString,
    /// Where to
    #[arg(value_name = "DST")]
    to: OsString,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// How a copy went, for programs.
#[derive(Debug, Serialize)]
struct Copied {
    /// Where it is now.
    path: String,
    /// Bytes that went over the wire.
    bytes: u64,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let side = |text| Side::parse(text).map_err(anyhow::Error::msg);
    let (from, to) = (side(&args.from)?, side(&args.to)?);
    let printer = app.printer();
    let seen = printer.stderr_is_terminal() && !printer.is_json() && !args.quiet;
    let copy = Copy { printer, seen };
    let start = Instant::now();
    let copied = match (from, to) {
        (Side::There { sandbox, path }, to @ (Side::Here(_) | Side::Archive)) => {
            let there = There { sandbox, path };
            app.with_client(async |client| copy.download(client, &there, to).await)?
        }
        (from @ (Side::Here(_) | Side::Archive), Side::There { sandbox, path }) => {
            let there = There { sandbox, path };
            app.with_client(async |client| {
                unless_interrupted(copy.upload(client, from, &there)).await
            })?
        }
        _ => {
            return Err(hinted(
                "one of SRC and DST has to be in a sandbox, the other on this machine",
                "write it as SANDBOX:/PATH",
            ));
        }
    };
    let copied = match copied {
        Ok(copied) => copied,
        Err(interrupted) => return Ok(interrupted.into()),
    };
    if printer.is_json() && args.to != "-" {
        printer.json(&copied)?;
    } else if seen {
        let took = human::duration(start.elapsed());
        printer.note(&format!("{} ({}) in {took}", copied.path, human::size(copied.bytes)));
    }
    DONE
}

/// What all copies need.
struct Copy<'a> {
    printer: &'a Printer,
    /// Whether somebody sees the progress.
    seen: bool,
}

/// A path of a sandbox.
struct There {
    sandbox: String,
    path: String,
}

impl Copy<'_> {
    fn meter(&self, total: Option<u64>) -> Arc<Meter> {
        Meter::new(self.seen, total)
    }

    /// Says what was left out.
    fn tell_skipped(&self, count: u64, names: impl IntoIterator<Item = String>) {
        let mut told = 0;
        for name in names {
            self.printer.note(&format!("left out: {name} (a socket, pipe or device)"));
            told += 1;
        }
        if count > told {
            self.printer.note(&format!("left out: {} more", count - told));
        }
    }
}

impl There {
    /// What is at a path of the sandbox; `None` if nothing is.
    async fn stat(&self, client: &mut Client, path: &str) -> Result<Option<FileStat>> {
        match client.file_stat(&self.sandbox, path).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.api_code() == Some(&ErrorCode::FileNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A name of this machine as one of a sandbox.
fn utf8(name: &std::ffi::OsStr) -> Result<&str> {
    match name.to_str() {
        Some(name) => Ok(name),
        None => bail!("{}: the name is not UTF-8; copy its directory instead", name.display()),
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::{Command, tests::try_args};

    #[test]
    fn both_sides_are_needed() {
        let Ok(Command::Cp(args)) = try_args("cp - dev:/x --quiet") else { panic!() };
        assert!(args.quiet && args.from == "-");
        assert!(try_args("cp a").is_err());
    }
}
