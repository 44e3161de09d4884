use std::process::ExitCode;

use anyhow::Result;

use crate::{
    app::{App, DONE},
    table::Table,
};

/// List users
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let users = app.with_client(async |client| Ok(client.users().await?))?;
    let printer = app.printer();
    if printer.is_json() {
        printer.json(&users)?;
        return DONE;
    }
    let mut table =
        Table::new(&["NAME", "ID", "ADMIN", "SANDBOXES", "MAX CPUS", "MAX MEMORY", "CREATED"]);
    for user in users {
        table.row([
            user.name,
            user.id,
            if user.admin { "yes" } else { "no" }.to_owned(),
            format!("{}/{}", user.sandboxes, user.max_sandboxes),
            user.max_cpus_per_sandbox.to_string(),
            format!("{} MB", user.max_memory_mb_per_sandbox),
            user.created_at,
        ]);
    }
    printer.bytes(table.render().as_bytes())?;
    DONE
}
