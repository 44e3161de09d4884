use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use api::client::Client;
use base::files;
use fs_err as fs;

use crate::{
    app::{App, DONE},
    commands::{cp::meter::Meter, interrupt::unless_interrupted},
    failure::hinted,
    human, progress,
};

/// Write an image as an archive of an OCI layout, which other programs can read
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// File to write; - for stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// What was written.
#[derive(Debug, serde::Serialize)]
struct Exported {
    image: String,
    path: String,
    bytes: u64,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && io::stdout().is_terminal() {
        let hint = "send it into a file or a program: bhatti image export NAME -o FILE";
        return Err(hinted("a tar archive is nothing for a terminal", hint));
    }
    let seen = app.printer().stderr_is_terminal() && !app.printer().is_json();
    let meter = Meter::new(seen, None);
    let exported = app.with_client(async |client| {
        let work = async {
            if to_stdout {
                return export(client, app, &args.image, &meter, |piece| {
                    app.printer().bytes(piece)
                })
                .await;
            }
            into_file(client, app, args, &meter).await
        };
        unless_interrupted(work).await
    })?;
    let bytes = meter.finish();
    if let Err(interrupted) = exported {
        return Ok(interrupted.into());
    }
    if !to_stdout {
        let path = args.output.display().to_string();
        let line = format!("image/{} written to {path} ({})", args.image, human::size(bytes));
        app.printer().outcome(&Exported { image: args.image.clone(), path, bytes }, &line)?;
    }
    DONE
}

async fn export(
    client: &mut Client,
    app: &App,
    image: &str,
    meter: &Meter,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (tell, steps) = progress::steps();
    tell.send_replace("packing what is in no layer yet, which is done once".to_owned());
    let answer = client.image_export(image);
    let mut content = progress::show(app.printer(), steps, answer).await?;
    while let Some(piece) = content.chunk().await? {
        meter.add(piece.len());
        write(&piece)?;
    }
    Ok(())
}

/// Writes a file that is there only once it is whole.
async fn into_file(client: &mut Client, app: &App, args: &Args, meter: &Meter) -> Result<()> {
    let path = &args.output;
    let unfinished = Unfinished(files::temporary_sibling(path));
    let mut file = fs::File::create(&unfinished.0)?;
    export(client, app, &args.image, meter, |piece| Ok(file.write_all(piece)?)).await?;
    file.sync_all()?;
    fs::rename(&unfinished.0, path).context("put the archive in its place")
}

/// A file that is gone with this, unless it has another name by then.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there any more once it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_does_not_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        let unfinished = Unfinished(files::temporary_sibling(&path));
        fs::write(&unfinished.0, "half").unwrap();
        drop(unfinished);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
