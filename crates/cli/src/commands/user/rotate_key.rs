use std::process::ExitCode;

use anyhow::Result;

use super::print_key;
use crate::app::{App, DONE};

/// Give a user a new key; the old one stops working at once
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    user: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let key = app.with_client(async |client| Ok(client.rotate_key(&args.user).await?))?;
    print_key(app.printer(), &key, "has a new key")?;
    DONE
}
