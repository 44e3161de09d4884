use std::process::ExitCode;

use anyhow::Result;
use api::{FileInfo, FileKind};

use crate::{
    app::{App, DONE},
    table::Table,
};

/// List a directory: type, mode, size, name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    #[arg(default_value = "/")]
    path: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let entries =
        app.with_client(async |client| Ok(client.file_list(&args.sandbox, &args.path).await?))?;
    if app.printer().is_json() {
        app.printer().json(&entries)?;
    } else {
        app.printer().bytes(table(&entries).render().as_bytes())?;
    }
    DONE
}

fn table(entries: &[FileInfo]) -> Table {
    let mut table = Table::bare();
    for entry in entries {
        let kind = match entry.kind {
            FileKind::File => "-",
            FileKind::Directory => "d",
            FileKind::Symlink => "l",
            FileKind::Other | FileKind::Unknown(_) => "?",
        };
        let size = entry.size.to_string();
        table.row([kind.to_owned(), entry.mode.clone(), size, entry.name.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_one_line_whatever_its_name() {
        let entry = |name: &str, kind: FileKind, size| FileInfo {
            name: name.into(),
            size,
            mode: "0644".into(),
            is_dir: kind == FileKind::Directory,
            mtime: 0,
            target: None,
            uid: 0,
            gid: 0,
            kind,
        };
        let entries = [entry("etc", FileKind::Directory, 4096), entry("a\nb", FileKind::File, 1)];
        assert_eq!(table(&entries).render(), "d   0644   4096   etc\n-   0644   1      a\\nb\n");
    }
}
