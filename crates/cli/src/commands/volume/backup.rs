use std::process::ExitCode;

use anyhow::Result;
use api::BackUpVolume;

use crate::{
    app::{App, DONE},
    human, progress,
};

/// Keep what a volume holds now elsewhere; sandboxes that use it go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Which of the places that the node's operator named [default: the node's]
    #[arg(long, value_name = "DESTINATION")]
    to: Option<String>,
    /// Encrypt it for this public key of age, besides whom the operator named; repeatable
    #[arg(long, value_name = "RECIPIENT")]
    encrypt: Vec<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = BackUpVolume { to: args.to.clone(), encrypt: args.encrypt.clone() };
    let made = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = client.back_up_volume(&args.volume, &request, |step| {
            let _ = tell.send(step);
        });
        Ok(progress::show(app.printer(), steps, work).await?)
    })?;
    let encrypted = if made.encrypted { ", encrypted" } else { "" };
    let size = human::size(made.size_bytes);
    let line = format!(
        "backup/{} of {} kept in {} ({size}{encrypted})",
        made.id, made.volume_name, made.destination
    );
    app.printer().outcome(&made, &line)?;
    DONE
}
