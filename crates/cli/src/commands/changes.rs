//! What commands that change something ask for and say.

use anyhow::Result;

use crate::{failure::hinted, table::Table};

/// Makes sure that a request asks for something; `flags` are what could be asked for.
pub(crate) fn require<T: Default + PartialEq>(request: &T, flags: &str) -> Result<()> {
    if *request == T::default() {
        return Err(hinted("there is nothing to change", format!("say what to change: {flags}")));
    }
    Ok(())
}

/// What was changed, a field a line: those that have a value.
pub(crate) fn updated<const N: usize>(name: &str, fields: [(&str, Option<String>); N]) -> String {
    let mut table = Table::bare();
    for (field, value) in fields {
        if let Some(value) = value {
            table.row([format!("{field}:"), value]);
        }
    }
    format!("Updated {name}\n{}", table.render()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use api::EditUser;

    use super::*;

    #[test]
    fn a_request_for_nothing_is_told_what_there_is() {
        let error = require(&EditUser::default(), "--max-snapshots").unwrap_err();
        assert_eq!(error.to_string(), "there is nothing to change");
        let one = EditUser { max_snapshots: Some(0), ..EditUser::default() };
        assert!(require(&one, "--max-snapshots").is_ok());
    }

    #[test]
    fn only_what_was_changed_is_shown() {
        let fields = [("Sleeps", Some("never".to_owned())), ("Name", None)];
        assert_eq!(updated("dev", fields), "Updated dev\nSleeps:   never");
        assert_eq!(updated("dev", []), "Updated dev");
    }
}
