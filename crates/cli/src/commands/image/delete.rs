use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    prompt,
};

/// Delete an image; sandboxes that were made of it go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    if !prompt::confirm(printer, &format!("delete image/{}", args.image), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let deleted = app.with_client(async |client| Ok(client.image_delete(&args.image).await?))?;
    printer.outcome(&deleted, &format!("image/{} deleted", deleted.name))?;
    DONE
}
