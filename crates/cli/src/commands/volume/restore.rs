use std::{io::Read as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use api::RestoreVolume;

use crate::{
    app::{App, DONE},
    progress,
};

/// Most bytes of a file with keys.
const IDENTITY_MAX: u64 = 64 << 10;

/// Bring back what a volume held
///
/// Without --as, the volume of that name gets what it held then; no sandbox may have it, and what is on
/// it is lost once all of the backup is there and checked. One that was deleted is made again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Id of the backup
    #[arg(long, value_name = "ID")]
    backup_id: String,
    /// Make a new volume of this name
    #[arg(long = "as", value_name = "NEW")]
    new: Option<String>,
    /// File with the secret key of age that opens an encrypted one
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let identity = args.identity.as_ref().map(|path| {
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(IDENTITY_MAX).read_to_string(&mut text));
        read.with_context(|| format!("read {}", path.display()))?;
        anyhow::Ok(text)
    });
    let request = RestoreVolume {
        backup_id: args.backup_id.clone(),
        new_name: args.new.clone(),
        identity: identity.transpose()?,
    };
    let volume = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = client.restore_volume(&args.volume, &request, |step| {
            let _ = tell.send(step);
        });
        Ok(progress::show(app.printer(), steps, work).await?)
    })?;
    let line = format!("volume/{} restored from {}", volume.name, args.backup_id);
    app.printer().outcome(&volume, &line)?;
    DONE
}
