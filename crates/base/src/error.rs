//! Printing an error with all of its causes on one line.

use std::error::Error;

/// `error` and every source below it, joined by `: `, without repeating a cause that the message
/// above it already ends with.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = cause.source();
    }
    text
}
