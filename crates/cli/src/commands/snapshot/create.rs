use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use api::{CreateSnapshot, SnapshotTaken, SnapshotType};

use crate::{
    app::{App, DONE},
    human,
};

/// Keep what a sandbox is now under a name; it goes on after a moment
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Name of the snapshot
    #[arg(long)]
    name: String,
    /// What it holds [default: memory]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Memory and disk: what is made of it goes on where the snapshot was taken
    Memory,
    /// The disk: what is made of it boots
    Disk,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = CreateSnapshot {
        name: args.name.clone(),
        kind: args.kind.map(|kind| match kind {
            Kind::Memory => SnapshotType::Memory,
            Kind::Disk => SnapshotType::Disk,
        }),
    };
    let taken =
        app.with_client(async |client| Ok(client.checkpoint(&args.sandbox, &request).await?))?;
    app.printer().outcome(&taken, &told(&taken))?;
    DONE
}

fn told(taken: &SnapshotTaken) -> String {
    let snapshot = &taken.snapshot;
    let size = human::size(snapshot.size_bytes);
    let stood = match taken.paused_ms {
        Some(ms) => {
            let stall = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
            format!(", {} stood still for {}", snapshot.source_sandbox, human::duration(stall))
        }
        None => String::new(),
    };
    format!("snapshot/{} created ({size}{stood})", snapshot.name)
}

#[cfg(test)]
mod tests {
    use super::{super::list::tests::snapshot, *};
    use crate::commands::tests::try_args;

    #[test]
    fn the_line_says_what_it_took() {
        let taken = |paused_ms| told(&SnapshotTaken { snapshot: snapshot(), paused_ms });
        let ran = "snapshot/base created (23.4 MB, dev stood still for 9 ms)";
        assert_eq!(taken(Some(9.25)), ran);
        assert_eq!(taken(None), "snapshot/base created (23.4 MB)");
        assert!(taken(Some(f64::NAN)).contains("0 ms"));
    }

    #[test]
    fn a_snapshot_needs_a_name() {
        assert!(try_args("snapshot create dev").is_err());
        assert!(try_args("snapshot create dev --name a --type disk").is_ok());
        assert!(try_args("snapshot create dev --name a --type filesystem").is_err());
    }
}
