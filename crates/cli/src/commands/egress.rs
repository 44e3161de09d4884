//! What sandboxes try to reach.

use std::process::ExitCode;

use anyhow::Result;
use api::{Egress, EgressAttempt};

use crate::{
    app::{App, DONE},
    table::Table,
};

/// Show what a sandbox tries to reach
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Log(Log),
}

/// List what a sandbox tried to reach, without waking it
#[derive(Debug, clap::Args)]
struct Log {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Print the allow-list that would have let all of it through, as flags of create and edit
    #[arg(long)]
    suggest: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Command::Log(args) = &args.command;
    let log = app.with_client(async |client| Ok(client.egress_log(&args.sandbox).await?))?;
    let printer = app.printer();
    if !args.suggest {
        printer.listing(&log.attempts, "nothing was tried yet", table)?;
    } else if printer.is_json() {
        printer.json(&log.suggested)?;
    } else {
        printer.bytes(format!("{}\n", flags(&log.suggested)).as_bytes())?;
        if let Some(beyond) = &log.beyond {
            let flags = flags(beyond);
            printer.note(&format!(
                "the user's policy does not let through, which only an admin changes: {flags}"
            ));
        }
    }
    DONE
}

fn table(attempts: &[EgressAttempt]) -> Table {
    let mut table = Table::new(&["LAST", "COUNT", "RESULT", "PROTOCOL", "HOST", "ADDRESS", "WHY"]);
    for attempt in attempts {
        let port = attempt.port.map(|port| format!(":{port}")).unwrap_or_default();
        let address = attempt.address.as_ref().map(|address| format!("{address}{port}"));
        table.row([
            attempt.last_at.clone(),
            attempt.count.to_string(),
            if attempt.allowed { "allowed" } else { "denied" }.to_owned(),
            attempt.protocol.clone(),
            attempt.host.clone().unwrap_or_else(dash),
            address.unwrap_or_else(dash),
            attempt.reason.clone(),
        ]);
    }
    table
}

fn dash() -> String {
    "-".to_owned()
}

fn flags(suggested: &Egress) -> String {
    let hosts = suggested.allow_hosts.iter().map(|host| format!("--allow-host '{host}'"));
    let ranges = suggested.allow_cidrs.iter().map(|range| format!("--allow-cidr {range}"));
    let all: Vec<String> =
        ["--egress allowlist".to_owned()].into_iter().chain(hosts).chain(ranges).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use api::EgressMode;

    use super::*;

    #[test]
    fn a_suggestion_can_be_typed() {
        let suggested = Egress {
            mode: EgressMode::Allowlist,
            allow_hosts: vec!["*.debian.org".into()],
            allow_cidrs: vec!["203.0.113.9/32".into()],
        };
        let line = "--egress allowlist --allow-host '*.debian.org' --allow-cidr 203.0.113.9/32";
        assert_eq!(flags(&suggested), line);
    }

    #[test]
    fn an_attempt_is_one_line() {
        let attempt = EgressAttempt {
            last_at: "2026-01-02T03:04:05Z".into(),
            count: 3,
            protocol: "tcp".into(),
            address: Some("203.0.113.9".into()),
            port: Some(443),
            host: None,
            allowed: false,
            reason: "not_bound".into(),
        };
        let text = table(&[attempt]).render();
        assert!(text.contains("3       denied   tcp        -      203.0.113.9:443"), "{text}");
    }
}
