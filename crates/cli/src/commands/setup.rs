use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use api::client::Endpoint;
use serde::Serialize;

use crate::{
    app::{App, DONE},
    config::{self, Config, Target},
    prompt,
};

/// Store URL and API key in the config file, once they work
///
/// Takes --url, --token and --ca, or their environment variables, and asks for what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, Serialize)]
struct Stored {
    api_url: String,
    config: String,
    sandboxes: usize,
}

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    let url = match &app.global().url {
        Some(url) => url.clone(),
        None => prompt::ask(printer, "URL of the daemon", "--url")?,
    };
    let endpoint: Endpoint = url.parse()?;
    let (endpoint, ca) = trusting(endpoint, &url, app)?;
    let token = match &app.global().token {
        Some(token) => token.clone(),
        None => prompt::ask(printer, "API key", "--token, or set BHATTI_TOKEN")?,
    };
    if !endpoint.stays_here() && !endpoint.is_encrypted() {
        printer.note("warning: http is not encrypted, and the key travels with every request");
    }
    let target = Target { endpoint, token: Some(token.clone()) };
    let sandboxes =
        app.with_client_for(target, async |client| Ok(client.sandboxes(&[]).await?))?.len();
    let path = config::write(&Config { api_url: Some(url.clone()), token: Some(token), ca })?;
    let config = path.display().to_string();
    let line = format!("{url} works; stored in {config}");
    printer.outcome(&Stored { api_url: url, config, sandboxes }, &line)?;
    DONE
}

/// The daemon with those trusted who are named or were before, and where their certificates are.
fn trusting(endpoint: Endpoint, url: &str, app: &App) -> Result<(Endpoint, Option<PathBuf>)> {
    let path = match app.ca() {
        Some(ca) => {
            ca.of(endpoint.clone())?;
            endpoint.is_encrypted().then(|| std::path::absolute(ca.path)).transpose()?
        }
        None => config::stored_ca(url),
    };
    let endpoint = path.iter().fold(endpoint, |endpoint, path| endpoint.trusting(path));
    Ok((endpoint, path))
}
