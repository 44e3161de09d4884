use std::process::ExitCode;

use anyhow::Result;
use api::Snapshot;

use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// Show everything about a snapshot
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let snapshot = app.with_client(async |client| Ok(client.snapshot(&args.snapshot).await?))?;
    if app.printer().is_json() {
        app.printer().json(&snapshot)?;
    } else {
        app.printer().bytes(describe(&snapshot).as_bytes())?;
    }
    DONE
}

fn describe(snapshot: &Snapshot) -> String {
    let mut table = Table::bare();
    let mut field = |name: &str, value: String| table.row([format!("{name}:"), value]);
    field("Name", snapshot.name.clone());
    field("ID", snapshot.id.clone());
    field("Type", snapshot.kind.to_string());
    field("Source", snapshot.source_sandbox.clone());
    field("Image", snapshot.image.clone());
    field("CPUs", snapshot.cpus.to_string());
    field("Memory", format!("{} MB", snapshot.memory_mb));
    field("Disk", format!("{} MB", snapshot.disk_size_mb));
    field("Size", human::size(snapshot.size_bytes));
    field("Own", format!("{}, free when it is deleted", human::size(snapshot.own_bytes)));
    field("Created", format!("{} by {}", snapshot.created_at, snapshot.created_by));
    table.render()
}

#[cfg(test)]
mod tests {
    use super::{super::list::tests::snapshot, *};

    #[test]
    fn a_snapshot_is_shown_whole() {
        assert_eq!(
            describe(&snapshot()),
            "Name:      base\n\
             ID:        snap_001122334455\n\
             Type:      memory\n\
             Source:    dev\n\
             Image:     minimal\n\
             CPUs:      2\n\
             Memory:    1024 MB\n\
             Disk:      8192 MB\n\
             Size:      23.4 MB\n\
             Own:       1.5 KB, free when it is deleted\n\
             Created:   2026-01-02T03:04:05Z by usr_00000001\n"
        );
    }
}
