use std::process::ExitCode;

use anyhow::Result;
use api::CopyVolume;

use crate::app::{App, DONE};

/// Make a volume that holds what another one holds now, and shares it; the other may be in use
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id of the volume that there is
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Name of the new one
    #[arg(value_name = "NEW")]
    new: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = CopyVolume { name: args.new.clone() };
    let volume =
        app.with_client(async |client| Ok(client.copy_volume(&args.volume, &request).await?))?;
    let line = format!("volume/{} created, a copy of {}", volume.name, args.volume);
    app.printer().outcome(&volume, &line)?;
    DONE
}
