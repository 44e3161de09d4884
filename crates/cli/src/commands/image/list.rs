use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    table::Table,
};

/// Digits of a digest that are enough for people.
const DIGEST_SHOWN: usize = 12;

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let images = app.with_client(async |client| Ok(client.images().await?))?;
    let printer = app.printer();
    if printer.is_json() {
        printer.json(&images)?;
        return DONE;
    }
    if images.is_empty() {
        printer.note("no images yet");
        return DONE;
    }
    let mut table = Table::new(&["NAME", "SIZE", "SOURCE", "DIGEST", "CREATED"]);
    for image in images {
        let digest = image.digest.chars().take(DIGEST_SHOWN).collect();
        let size = format!("{} MB", image.size_mb);
        table.row([image.name, size, image.source, digest, image.created_at]);
    }
    printer.bytes(table.render().as_bytes())?;
    DONE
}
