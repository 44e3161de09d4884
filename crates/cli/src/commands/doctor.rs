//! Checks the host: [`facts`] are collected first, [`judge`] then says what they mean.

mod backups;
mod certificates;
mod facts;
mod forwarding;
pub(super) mod host;
mod judge;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use self::judge::{Finding, Status};
use crate::app::App;

/// Check whether this host can run sandboxes, and say what to do if it cannot
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Boot a test VM to find out whether KVM works, if that is not known yet
    #[arg(long)]
    probe: bool,
    /// Read all files of the kernel and the images again and compare them with their hashes
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether nothing keeps sandboxes from running.
    ok: bool,
    checks: &'a [Finding],
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let facts = facts::collect(app, args.probe, args.verify)?;
    let findings = judge::all(&facts);
    let ok = findings.iter().all(|finding| finding.status != Status::Fail);
    if app.printer().is_json() {
        app.printer().json(&Report { ok, checks: &findings })?;
    } else {
        app.printer().bytes(render(&findings).as_bytes())?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for each finding, and one below it that says what to do.
fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, status, found, hint } in findings {
        let status = status.to_string();
        text.push_str(&format!("{status:<4}   {check:<width$}   {found}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!("{:<4}   {:<width$}   hint: {hint}\n", "", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_line_up_and_hints_stand_below_what_was_found() {
        let findings = [
            Finding::ok("user", "root"),
            Finding::fail("/dev/kvm", "missing", "get one"),
            Finding::warn("x", "odd", "look"),
        ];
        assert_eq!(
            render(&findings),
            "ok     user       root\n\
             fail   /dev/kvm   missing\n\
             \x20                 hint: get one\n\
             warn   x          odd\n\
             \x20                 hint: look\n"
        );
    }
}
