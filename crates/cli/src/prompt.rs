//! Questions to whoever sits at the terminal.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};

use crate::{failure::hinted, printer::Printer};

/// Longest line that is read as an answer, in bytes.
const MAX_ANSWER: u64 = 4096;

/// Whether `action` may be done; `yes` is the flag that answers beforehand.
///
/// # Errors
/// If nobody is there to answer: doing nothing must not look like success.
pub(crate) fn confirm(printer: &Printer, action: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(hinted(
            format!("cannot ask whether to {action}: stdin is not a terminal"),
            "nothing was done; pass -y to do it without a question",
        ));
    }
    printer.question(&format!("{action}? [y/N]"));
    let agreed = is_yes(&line()?);
    if !agreed {
        printer.note("nothing was done");
    }
    Ok(agreed)
}

/// Asks for a value, if somebody is there to give it.
pub(crate) fn ask(printer: &Printer, what: &str, flag: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        printer.question(&format!("{what}:"));
    }
    let answer = line()?;
    if answer.is_empty() {
        return Err(hinted(format!("the {what} is missing"), format!("pass {flag}")));
    }
    Ok(answer)
}

/// One line of stdin, trimmed; empty at end of file.
fn line() -> Result<String> {
    use std::io::{BufRead as _, Read as _};
    let mut line = String::new();
    io::stdin().lock().take(MAX_ANSWER).read_line(&mut line).context("read the answer")?;
    Ok(line.trim().to_owned())
}

fn is_yes(answer: &str) -> bool {
    answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(is_yes("y") && is_yes("Yes"));
        assert!(!is_yes("") && !is_yes("n") && !is_yes("yep"));
    }
}
