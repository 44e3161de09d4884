use std::process::ExitCode;

use anyhow::Result;
use api::FileStat;

use crate::{
    app::{App, DONE},
    table::Table,
};

/// Show a path's type, mode and size; symbolic links are followed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    path: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, path } = args;
    let stat = app.with_client(async |client| Ok(client.file_stat(sandbox, path).await?))?;
    if app.printer().is_json() {
        app.printer().json(&stat)?;
    } else {
        app.printer().bytes(describe(path, &stat).as_bytes())?;
    }
    DONE
}

fn describe(path: &str, stat: &FileStat) -> String {
    let mut table = Table::bare();
    let mut field = |name: &str, value: String| table.row([format!("{name}:"), value]);
    field("Path", path.to_owned());
    field("Type", if stat.is_dir { "directory" } else { "file" }.to_owned());
    field("Mode", stat.mode.clone());
    field("Size", format!("{} bytes", stat.size));
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_described_line_by_line() {
        let stat = FileStat { size: 12, mode: "0644".into(), is_dir: false };
        assert_eq!(
            describe("/x", &stat),
            "Path:   /x\nType:   file\nMode:   0644\nSize:   12 bytes\n"
        );
    }
}
