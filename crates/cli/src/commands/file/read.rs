use std::process::ExitCode;

use anyhow::Result;
use api::client::FilePart;

use crate::app::{App, DONE};

/// Write a file's bytes to stdout
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    path: String,
    /// First line, counted from 1
    #[arg(long, value_name = "LINE")]
    offset: Option<u64>,
    /// Most lines
    #[arg(long, value_name = "LINES")]
    limit: Option<u64>,
    /// Most bytes
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let part = FilePart { offset: args.offset, limit: args.limit, max_bytes: args.max_bytes };
    app.with_client(async |client| {
        let mut content = client.file_read(&args.sandbox, &args.path, part).await?;
        while let Some(chunk) = content.chunk().await? {
            app.printer().bytes(&chunk)?;
        }
        Ok(())
    })?;
    DONE
}
