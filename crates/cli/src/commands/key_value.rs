//! `KEY=VALUE` on the command line.

/// Reads one pair. The value is everything after the first `=`, commas included.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has to be KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_commas_and_equals_signs() {
        assert_eq!(parse("A=b,c=d"), Ok(("A".into(), "b,c=d".into())));
        assert_eq!(parse("A="), Ok(("A".into(), String::new())));
        assert!(parse("A").is_err() && parse("=b").is_err());
    }
}
