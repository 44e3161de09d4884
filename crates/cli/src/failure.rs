//! How a failed command ends: one line that says what went wrong, one that says what to do.

use std::{fmt, process::ExitCode};

use api::{ErrorBody, ErrorCode, client::ClientError};

use crate::printer::Printer;

/// What a program that was killed by SIGPIPE exits with, as shells count.
const SIGPIPE_EXIT: u8 = 141;

/// An error of the command line itself, with a way out.
#[derive(Debug)]
struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// Whoever read our stdout has gone. That is no error worth a word.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// An error with a hint.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { message: message.into(), hint: hint.into() })
}

/// Prints the error and gives the exit code for it.
pub(crate) fn report(printer: &Printer, error: &anyhow::Error) -> ExitCode {
    if error.is::<StdoutClosed>() {
        return ExitCode::from(SIGPIPE_EXIT);
    }
    printer.error(&body(error));
    ExitCode::FAILURE
}

/// The error in the shape that the API has for errors.
fn body(error: &anyhow::Error) -> ErrorBody {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return error.to_body();
    }
    // The chain is joined here and nowhere else, so no cause is said twice.
    let body = ErrorBody::new(ErrorCode::Unknown("client_error".to_owned()), format!("{error:#}"));
    match error.downcast_ref::<Hinted>() {
        Some(hinted) => body.with_hint(&hinted.hint),
        None => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_hint_and_code() {
        let own = body(&hinted("no home", "name one"));
        assert_eq!((own.error.as_str(), own.hint.as_deref()), ("no home", Some("name one")));
        let wire = ErrorBody::new(ErrorCode::NameTaken, "taken").with_hint("another name");
        let error = anyhow::Error::new(ClientError::Api(Box::new(wire.clone())));
        assert_eq!(body(&error), wire);
        let chain = anyhow::anyhow!("inner").context("outer");
        assert_eq!(body(&chain).error, "outer: inner");
    }
}
