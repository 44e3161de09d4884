use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    app::{App, DONE},
    human,
};

/// Make an image of a sandbox's disk as it is now
///
/// Nothing is copied, so it takes as long as writing down what the sandbox has not written yet. The
/// sandbox goes on. Its memory is not in the image: sandboxes made of it boot, and nothing runs in
/// them but what their init starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// What the image is to be called
    #[arg(long, value_name = "NAME")]
    name: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let began = Instant::now();
    let saved =
        app.with_client(async |client| Ok(client.save_image(&args.sandbox, &args.name).await?))?;
    let took = human::duration(began.elapsed());
    app.printer().outcome(&saved, &format!("image/{} saved in {took}", saved.name))?;
    DONE
}
