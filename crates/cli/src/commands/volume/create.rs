use std::process::ExitCode;

use anyhow::Result;
use api::CreateVolume;

use super::size_mb;
use crate::app::{App, DONE};

/// Make an empty volume
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
    /// Size: 500M, 20G, 1T; what is not written takes no room on the host
    #[arg(long, value_name = "SIZE", value_parser = size_mb)]
    size: u64,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = CreateVolume { name: args.name.clone(), size_mb: args.size };
    let volume = app.with_client(async |client| Ok(client.create_volume(&request).await?))?;
    app.printer()
        .outcome(&volume, &format!("volume/{} created ({} MB)", volume.name, volume.size_mb))?;
    DONE
}
