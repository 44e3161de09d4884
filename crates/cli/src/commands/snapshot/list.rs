use std::process::ExitCode;

use anyhow::Result;
use api::Snapshot;

use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// List snapshots
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

const NOTHING: &str = "no snapshots yet; take one with: bhatti snapshot create SANDBOX --name NAME";

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let snapshots = app.with_client(async |client| Ok(client.snapshots().await?))?;
    app.printer().listing(&snapshots, NOTHING, table)?;
    DONE
}

fn table(snapshots: &[Snapshot]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "TYPE", "SOURCE", "SIZE", "OWN", "CREATED"]);
    for snapshot in snapshots {
        table.row([
            snapshot.id.clone(),
            snapshot.name.clone(),
            snapshot.kind.to_string(),
            snapshot.source_sandbox.clone(),
            human::size(snapshot.size_bytes),
            human::size(snapshot.own_bytes),
            snapshot.created_at.clone(),
        ]);
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use api::SnapshotType;

    use super::*;

    /// A snapshot for the tests of all commands that print one.
    pub(crate) fn snapshot() -> Snapshot {
        Snapshot {
            id: "snap_001122334455".into(),
            name: "base".into(),
            kind: SnapshotType::Memory,
            source_sandbox: "dev".into(),
            created_by: "usr_00000001".into(),
            image: "minimal".into(),
            cpus: 2,
            memory_mb: 1024,
            disk_size_mb: 8192,
            size_bytes: 24_560_000,
            own_bytes: 1536,
            size_mb: 24,
            created_at: "2026-01-02T03:04:05Z".into(),
        }
    }

    #[test]
    fn what_a_snapshot_takes_and_what_deleting_it_frees_are_told_apart() {
        let disk = Snapshot { name: "d".into(), kind: SnapshotType::Disk, ..snapshot() };
        assert_eq!(
            table(&[snapshot(), disk]).render(),
            "ID                  NAME   TYPE     SOURCE   SIZE      OWN      CREATED\n\
             snap_001122334455   base   memory   dev      23.4 MB   1.5 KB   2026-01-02T03:04:05Z\n\
             snap_001122334455   d      disk     dev      23.4 MB   1.5 KB   2026-01-02T03:04:05Z\n"
        );
    }
}
