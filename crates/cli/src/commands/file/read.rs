use std::process::ExitCode;

use anyhow::Result;
use api::client::{ByteRange, FilePart};

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
    /// Bytes, counted from 0: A-B with both included, A- to the end, or -N for the last N
    #[arg(
        long,
        value_name = "A-B",
        value_parser = range,
        allow_hyphen_values = true,
        conflicts_with_all = ["offset", "limit", "max_bytes"]
    )]
    range: Option<ByteRange>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let part = FilePart { offset: args.offset, limit: args.limit, max_bytes: args.max_bytes };
    app.with_client(async |client| {
        let Args { sandbox, path, .. } = args;
        let mut content = match args.range {
            Some(range) => client.file_read_range(sandbox, path, range).await?,
            None => client.file_read(sandbox, path, part).await?,
        };
        while let Some(chunk) = content.chunk().await? {
            app.printer().bytes(&chunk)?;
        }
        Ok(())
    })?;
    DONE
}

/// Reads a range as HTTP has it.
fn range(text: &str) -> Result<ByteRange, String> {
    let wrong = || "it has to be A-B, A- or -N, such as 0-1023".to_owned();
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match text.split_once('-').ok_or_else(wrong)? {
        ("", count) => Ok(ByteRange::Last(number(count)?)),
        (first, "") => Ok(ByteRange::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err("it ends before it begins".to_owned());
            }
            Ok(ByteRange::Between(first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(range("0-9"), Ok(ByteRange::Between(0, 9)));
        assert_eq!((range("5-"), range("-5")), (Ok(ByteRange::From(5)), Ok(ByteRange::Last(5))));
        for bad in ["", "-", "5", "9-0", "a-b", "1-2-3"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert!(try_args("file read dev /x --range -5").is_ok());
        assert!(try_args("file read dev /x --range 0-1 --limit 3").is_err());
    }
}
