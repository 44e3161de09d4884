//! Names below which the public finds HTTP servers.

use std::{fmt, str::FromStr};

use crate::{Error, Kind};

/// Longest alias, bytes: it is one part of a host's name.
const ALIAS_MAX: usize = 63;
/// Names that mean something else in many zones.
const RESERVED: [&str; 9] =
    ["www", "mail", "admin", "status", "ns1", "ns2", "api", "app", "_acme-challenge"];
/// Bytes of chance in an alias that was made up.
const CHANCE: usize = 3;

/// A name of small letters, digits and hyphens, unique on the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Alias(String);

impl Alias {
    /// The alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One that nobody has yet, most likely, and that reminds of the sandbox.
    pub(super) fn for_sandbox(name: &str) -> Self {
        let legal = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        };
        let kept = ALIAS_MAX - 1 - 2 * CHANCE;
        let mut words: String = name.chars().map(legal).take(kept).collect();
        words.truncate(words.trim_end_matches('-').len());
        // A sandbox's name begins with a letter or a digit.
        Self(format!("{words}-{}", base::random::hex::<CHANCE>()))
    }
}

impl FromStr for Alias {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let shown = || text.chars().take(80).collect::<String>();
        let invalid = |message| Err(Error::new(Kind::InvalidName, message));
        if RESERVED.contains(&text) {
            return invalid(format!("the alias {text:?} is reserved"));
        }
        let legal = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let edges = text.starts_with('-') || text.ends_with('-');
        if !legal || edges || text.is_empty() || text.len() > ALIAS_MAX {
            return invalid(format!(
                "{:?} is not a valid alias: use 1 to {ALIAS_MAX} small letters, digits or '-', not \
                 at the beginning or the end",
                shown()
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aliases_are_parts_of_host_names() {
        for good in ["a", "0", "web-1", "a--b", &"x".repeat(63)] {
            assert_eq!(good.parse::<Alias>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ü", "a/b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Alias>().unwrap_err().kind, Kind::InvalidName, "{bad}");
        }
        for reserved in RESERVED {
            let refused = reserved.parse::<Alias>().unwrap_err();
            assert!(refused.message.contains("reserved"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn every_sandbox_has_a_legal_alias(name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}") {
            let alias = Alias::for_sandbox(&name);
            prop_assert_eq!(alias.as_str().parse::<Alias>().unwrap(), alias);
        }
    }
}
