use std::{convert::Infallible, process::ExitCode};

use anyhow::Result;
use api::{WatchEvent, client::ClientError};

use crate::{
    app::App, commands::interrupt::unless_interrupted, printer::Printer, table::printable,
};

/// Print a line for every change of a file or directory, until Ctrl-C
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path
    path: String,
    /// Watch the directories below it too
    #[arg(short, long)]
    recursive: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Args { sandbox, path, recursive } = args;
    let ended = app.with_client(async |client| {
        let work = async {
            let mut events = client.watch(sandbox, path, *recursive).await?;
            while let Some(event) = events.next().await? {
                show(app.printer(), event)?;
            }
            Err(ClientError::StreamCut.into())
        };
        unless_interrupted::<Infallible>(work).await
    })?;
    match ended {
        Err(interrupted) => Ok(interrupted.into()),
    }
}

fn show(printer: &Printer, event: WatchEvent) -> Result<()> {
    if printer.is_json() {
        printer.json_line(&event)?;
    }
    match event {
        WatchEvent::Error(body) => Err(ClientError::Api(Box::new(body)).into()),
        _ if printer.is_json() => Ok(()),
        // For whoever makes the changes at another terminal.
        WatchEvent::Watching if printer.stderr_is_terminal() => {
            printer.note("watching; end with Ctrl-C");
            Ok(())
        }
        event @ WatchEvent::Change { .. } => printer.line(&line(&event)),
        WatchEvent::Watching | WatchEvent::Unknown => Ok(()),
    }
}

/// A change as one line, whatever the names in it.
fn line(event: &WatchEvent) -> String {
    let WatchEvent::Change { kind, path, to, is_dir } = event else { return String::new() };
    let slash = if *is_dir { "/" } else { "" };
    let mut line = format!("{:<10} {}{slash}", kind.to_string(), printable(path));
    if let Some(to) = to {
        line.push_str(&format!(" -> {}{slash}", printable(to)));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use api::WatchKind;

    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let change = |kind, path: &str, to: Option<&str>, is_dir| {
            line(&WatchEvent::Change { kind, path: path.into(), to: to.map(Into::into), is_dir })
        };
        assert_eq!(change(WatchKind::Create, "/a\nb", None, false), "create     /a\\nb");
        assert_eq!(change(WatchKind::Rename, "/a", Some("/b"), true), "rename     /a/ -> /b/");
        assert_eq!(change(WatchKind::Overflow, "", None, false), "overflow");
    }
}
