//! The one place that writes to the terminal.
//!
//! Stdout is data and is written exactly. Stderr is for people, and coloured if it is a terminal
//! and `NO_COLOR` is not set.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};
use api::ErrorBody;
use serde::Serialize;

use crate::{failure::StdoutClosed, table::Table};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();

/// Writes what commands have to say.
#[derive(Debug)]
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the caller asked for JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes exact bytes to stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(stdout_error)
    }

    /// Writes a line to stdout.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Writes one JSON value to stdout.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        self.line(&serde_json::to_string_pretty(value).context("encode the output")?)
    }

    /// Writes one JSON value to stdout, on one line.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) -> Result<()> {
        self.line(&serde_json::to_string(value).context("encode the output")?)
    }

    /// Writes `values` as JSON if that was asked for, else the table, or a word for people if there
    /// is nothing in it.
    pub(crate) fn listing<T: Serialize>(
        &self,
        values: &[T],
        nothing: &str,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<()> {
        if self.json {
            self.json(&values)
        } else if values.is_empty() {
            self.note(nothing);
            Ok(())
        } else {
            self.bytes(table(values).render().as_bytes())
        }
    }

    /// Writes `value` as JSON if that was asked for, else the line.
    pub(crate) fn outcome<T: Serialize>(&self, value: &T, line: &str) -> Result<()> {
        if self.json { self.json(value) } else { self.line(line) }
    }

    /// Writes exact bytes to stderr: what a command in a sandbox wrote to its own.
    pub(crate) fn error_bytes(&self, bytes: &[u8]) {
        // Nothing is left to tell people by if this fails.
        let _ = io::stderr().write_all(bytes);
    }

    /// Tells people something that is not data.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(anstream::stderr(), "{text}");
    }

    /// Asks people something; the answer is theirs to type on the same line.
    pub(crate) fn question(&self, text: &str) {
        let mut stderr = anstream::stderr();
        let _ = write!(stderr, "{text} ");
        let _ = stderr.flush();
    }

    /// Tells what went wrong: in words, or as one line of JSON if the caller asked for JSON.
    pub(crate) fn error(&self, body: &ErrorBody) {
        let mut stderr = anstream::stderr();
        if self.json
            && let Ok(json) = serde_json::to_string(body)
        {
            let _ = writeln!(stderr, "{json}");
            return;
        }
        let _ = writeln!(stderr, "{ERROR}error:{ERROR:#} {}", body.error);
        if let Some(id) = &body.request_id {
            let _ = writeln!(stderr, "{HINT}request:{HINT:#} {id}");
        }
        if let Some(hint) = &body.hint {
            let _ = writeln!(stderr, "{HINT}hint:{HINT:#} {hint}");
        }
    }

    /// Whether progress can be redrawn in place.
    pub(crate) fn stderr_is_terminal(&self) -> bool {
        io::stderr().is_terminal()
    }
}

fn stdout_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow::Error::new(StdoutClosed),
        _ => anyhow::Error::new(error).context("write to stdout"),
    }
}
