use std::process::ExitCode;

use anyhow::Result;
use api::ResizeVolume;

use super::size_mb;
use crate::app::{App, DONE};

/// Make a volume larger: at once if a running sandbox writes to it, else when it is next used
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Size from then on: 500M, 20G, 1T
    #[arg(long, value_name = "SIZE", value_parser = size_mb)]
    size: u64,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = ResizeVolume { size_mb: args.size };
    let volume =
        app.with_client(async |client| Ok(client.resize_volume(&args.volume, &request).await?))?;
    app.printer()
        .outcome(&volume, &format!("volume/{} resized to {} MB", volume.name, volume.size_mb))?;
    DONE
}
