//! Room on the host's disk.

use std::process::ExitCode;

use anyhow::Result;
use api::{Prune, Pruned, Storage};

use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// See what takes room on the host's disk and give it back, as an administrator
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what takes how much room
    Df,
    /// Remove what nobody needs and what can be made again
    ///
    /// Goes: contents of images that have no name and no sandbox, templates of images, kernels and
    /// engines that are not current, old kernels. What a sandbox or a named snapshot was made of
    /// stays as long as these do. Nothing of a user's goes: sandboxes, snapshots and volumes are
    /// removed by their own commands.
    Prune {
        /// Remove also templates that the next create would take; it records them again, which
        /// takes seconds
        #[arg(long)]
        all: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    match args.command {
        Command::Df => {
            let storage = app.with_client(async |client| Ok(client.storage().await?))?;
            printer.outcome(&storage, &taken(&storage))?;
        }
        Command::Prune { all, dry_run } => {
            let request = Prune { all, dry_run };
            let pruned = app.with_client(async |client| Ok(client.prune(&request).await?))?;
            printer.outcome(&pruned, &gone(&pruned))?;
        }
    }
    DONE
}

fn taken(storage: &Storage) -> String {
    let mut table = Table::new(&["WHAT", "COUNT", "SIZE", "RECLAIMABLE"]);
    for one in &storage.uses {
        let sizes = [one.bytes, one.reclaimable_bytes].map(human::size);
        table.row([one.kind.clone(), one.count.to_string()].into_iter().chain(sizes));
    }
    let (all, free) = (human::size(storage.bytes), human::size(storage.free_bytes));
    format!("{}{all} altogether, what is shared counted once; {free} are free", table.render())
}

fn gone(pruned: &Pruned) -> String {
    let mut lines: Vec<String> = Vec::new();
    let (did, freed) = match pruned.dry_run {
        true => ("would remove", "would be free"),
        false => ("removed", "are free"),
    };
    for one in &pruned.removed {
        lines.push(format!("{did} {} {}", one.kind.trim_end_matches('s'), one.name));
    }
    lines.push(match pruned.removed.is_empty() {
        true => "nothing that nobody needs".to_owned(),
        false => format!("{} more {freed}", human::size(pruned.bytes)),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use api::{PrunedItem, StorageUse};

    use super::*;

    #[test]
    fn what_takes_room_is_shown_by_kind() {
        let one = StorageUse {
            kind: "templates".into(),
            count: 3,
            bytes: 3 << 20,
            reclaimable_bytes: 1 << 20,
        };
        let storage = Storage { uses: vec![one], bytes: 2 << 20, free_bytes: 1 << 30 };
        let expected = "WHAT        COUNT   SIZE     RECLAIMABLE\n\
                        templates   3       3.0 MB   1.0 MB\n\
                        2.0 MB altogether, what is shared counted once; 1.0 GB are free";
        assert_eq!(taken(&storage), expected);
    }

    #[test]
    fn what_went_and_what_would_go_are_told_apart() {
        let removed = vec![PrunedItem { kind: "layers".into(), name: "ab".into() }];
        let mut pruned = Pruned { removed, bytes: 1 << 20, dry_run: true };
        assert_eq!(gone(&pruned), "would remove layer ab\n1.0 MB more would be free");
        pruned.dry_run = false;
        assert_eq!(gone(&pruned), "removed layer ab\n1.0 MB more are free");
        pruned.removed.clear();
        assert_eq!(gone(&pruned), "nothing that nobody needs");
    }
}
