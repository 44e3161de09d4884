use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    app::{App, DONE},
    failure::hinted,
};

/// Print the certificate of this node's own authority, for whoever is to trust it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let path = daemon::certificate_path(app.global().data_dir());
    if !path.exists() {
        return Err(hinted(
            format!("there is no authority in {}", app.global().data_dir().display()),
            "a daemon makes it that serves with tls = \"local-ca\"",
        ));
    }
    let pem = fs_err::read(&path).context("read the certificate")?;
    app.printer().bytes(&pem)?;
    DONE
}
