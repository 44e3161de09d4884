use std::process::ExitCode;

use anyhow::Result;
use api::{
    FileInfo, FileKind,
    client::{Client, ClientError},
};

use crate::{
    app::{App, DONE},
    table::Table,
};

/// Entries asked for at a time.
const PAGE: u64 = 5000;

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
    let entries = app.with_client(async |client| all(client, &args.sandbox, &args.path).await)?;
    if app.printer().is_json() {
        app.printer().json(&entries)?;
    } else {
        app.printer().bytes(table(&entries).render().as_bytes())?;
    }
    DONE
}

/// All entries of a directory, by name.
async fn all(client: &mut Client, sandbox: &str, path: &str) -> Result<Vec<FileInfo>> {
    let mut entries: Vec<FileInfo> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.name.as_str());
        let (page, more) = client.file_list_page(sandbox, path, after, PAGE).await?;
        // Names that are not UTF-8 are replaced, so that the next page may begin before this ends.
        let new = page.iter().any(|entry| after.is_none_or(|last| entry.name.as_str() > last));
        if !new {
            if more {
                return Err(ClientError::BadAnswer("the listing has no end".to_owned()).into());
            }
            return Ok(entries);
        }
        entries.extend(page);
        if !more {
            return Ok(entries);
        }
    }
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
