use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::app::{App, DONE};

/// Withdraw a published port
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// The port in the sandbox
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// The outcome, for programs.
#[derive(Debug, Serialize)]
struct Withdrawn<'a> {
    status: &'static str,
    sandbox: &'a str,
    port: u16,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let (sandbox, port) = (args.sandbox.as_str(), args.port);
    app.with_client(async |client| Ok(client.unpublish(sandbox, port).await?))?;
    let outcome = Withdrawn { status: "unpublished", sandbox, port };
    app.printer().outcome(&outcome, &format!("port {port} of sandbox/{sandbox} unpublished"))?;
    DONE
}
