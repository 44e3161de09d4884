use std::process::ExitCode;

use anyhow::Result;
use api::{Health, client::ClientError};
use serde::Serialize;

use crate::app::{App, DONE};

/// Show the versions of this program and of the daemon
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    /// `null` if no daemon answers.
    daemon: Option<Health>,
}

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    let answer = app.with_client(async |client| Ok(client.health().await?));
    // The daemon's absence is worth knowing and no reason to withhold this program's version.
    let (daemon, missing) = match answer {
        Ok(health) => (Some(health), None),
        Err(error) if error.is::<ClientError>() => (None, Some(format!("{error:#}"))),
        Err(error) => return Err(error),
    };
    let client = env!("CARGO_PKG_VERSION");
    if printer.is_json() {
        printer.json(&Versions { client, daemon })?;
        return DONE;
    }
    printer.line(&format!("client   {client}"))?;
    if let Some(Health { version, engine, accelerator, uptime, .. }) = daemon {
        printer.line(&format!("daemon   {version} ({engine}/{accelerator}, up {uptime})"))?;
    }
    if let Some(reason) = missing {
        printer.note(&format!("daemon   {reason}"));
    }
    DONE
}
