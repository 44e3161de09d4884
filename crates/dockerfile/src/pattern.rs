//! Patterns of paths: those of `COPY`, in which nothing matches a slash, and those of
//! `.dockerignore`, which also know `**`.
//!
//! A pattern is matched as an automaton, in time that is the product of the two lengths: whoever
//! writes the pattern cannot make it take long.

/// Most bytes of a pattern.
const PATTERN_MAX: usize = 4096;

/// Why something is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a pattern: {reason}")]
pub struct InvalidPattern {
    /// The beginning of what was tried.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A pattern that whole paths match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    Just(char),
    /// `?`: any but a slash.
    One,
    /// `*`: any number, but no slash.
    Some,
    /// `**/`: nothing, or anything that ends with a slash.
    Directories,
    /// `**` at the end: anything.
    Rest,
    /// `[a-z]`: one of these, or with `true` one that is none of these.
    Class(bool, Vec<(char, char)>),
}

impl Pattern {
    /// A pattern as `COPY` has them.
    ///
    /// # Errors
    /// A class that is not closed or is empty, a range that is none, an escape at the end.
    pub fn path(text: &str) -> Result<Self, InvalidPattern> {
        Self::read(text, false)
    }

    /// A pattern as `.dockerignore` has them.
    ///
    /// # Errors
    /// As for [`path`](Self::path).
    pub fn ignore(text: &str) -> Result<Self, InvalidPattern> {
        Self::read(text, true)
    }

    /// Whether it is more than a path.
    pub fn is_special(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    fn read(text: &str, deep: bool) -> Result<Self, InvalidPattern> {
        let refuse = |reason| InvalidPattern { pattern: crate::shown(text), reason };
        if text.len() > PATTERN_MAX {
            return Err(refuse("it is too long"));
        }
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if deep && chars.peek() == Some(&'*') => {
                    chars.next();
                    chars.next_if_eq(&'/');
                    if chars.peek().is_none() { Token::Rest } else { Token::Directories }
                }
                '*' => Token::Some,
                '?' => Token::One,
                '\\' => Token::Just(chars.next().ok_or_else(|| refuse("it ends with \\"))?),
                '[' => class(&mut chars).map_err(refuse)?,
                c => Token::Just(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let tokens = &self.0;
        // Where in the pattern the text read so far may have led, and of `**/` where it is inside.
        let mut at = vec![false; tokens.len() + 1];
        let mut inside = vec![false; tokens.len() + 1];
        at[0] = true;
        self.skip(&mut at);
        for c in text.chars() {
            let mut next = vec![false; at.len()];
            let mut next_inside = vec![false; at.len()];
            for (index, token) in tokens.iter().enumerate() {
                if *token == Token::Directories && (at[index] || inside[index]) {
                    next_inside[index] = true;
                    next[index + 1] |= c == '/';
                } else if at[index] {
                    match token.takes(c) {
                        Taken::No => {}
                        Taken::Last => next[index + 1] = true,
                        Taken::More => next[index] = true,
                    }
                }
            }
            (at, inside) = (next, next_inside);
            self.skip(&mut at);
        }
        at[tokens.len()]
    }

    /// Adds where one gets without reading anything.
    fn skip(&self, at: &mut [bool]) {
        for (index, token) in self.0.iter().enumerate() {
            if at[index] && matches!(token, Token::Some | Token::Directories | Token::Rest) {
                at[index + 1] = true;
            }
        }
    }
}

/// Whether a token reads a character, and whether it may read others after it.
enum Taken {
    No,
    Last,
    More,
}

impl Token {
    fn takes(&self, c: char) -> Taken {
        let fits = match self {
            Self::Just(only) => c == *only,
            Self::One => c != '/',
            Self::Class(not, ranges) => {
                let is_in = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                c != '/' && is_in != *not
            }
            Self::Some if c != '/' => return Taken::More,
            Self::Rest => return Taken::More,
            Self::Some | Self::Directories => false,
        };
        if fits { Taken::Last } else { Taken::No }
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, &'static str> {
    const OPEN: &str = "a [ is not closed";
    let not = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next() {
        Some('\\') => chars.next().ok_or(OPEN),
        Some('-') => Err("a - in [] needs a character before it"),
        Some(c) => Ok(c),
        None => Err(OPEN),
    };
    while chars.next_if_eq(&']').is_none() {
        let low = one(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { one(chars)? } else { low };
        if high < low {
            return Err("a range in [] is backwards");
        }
        ranges.push((low, high));
    }
    if ranges.is_empty() { Err("[] is empty") } else { Ok(Token::Class(not, ranges)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_s_pattern_crosses_no_slash() {
        let of = |pattern: &str, text: &str| Pattern::path(pattern).unwrap().matches(text);
        assert!(of("*.txt", "a.txt") && !of("*.txt", "d/a.txt") && !of("*.txt", "a.txt2"));
        assert!(of("a/*/c", "a/b/c") && !of("a/*/c", "a/b/b/c") && !of("a/*", "a"));
        assert!(of("?[a-c^]", "xb") && of("[^a]", "b") && !of("[^a]", "a") && !of("[^a]", "/"));
        assert!(of(r"\*\?", "*?") && !of(r"\*", "a") && of(r"[\]\-]", "-"));
        assert!(of("**", "ab") && !of("**", "a/b") && of("", "") && !of("", "a"));
        assert!(of("é*", "éa"));
    }

    #[test]
    fn two_stars_cross_directories_where_they_may() {
        let of = |pattern: &str, text: &str| Pattern::ignore(pattern).unwrap().matches(text);
        assert!(of("**/x", "x") && of("**/x", "a/x") && of("**/x", "a/b/x") && !of("**/x", "ax"));
        assert!(of("a/**", "a/b/c") && of("a/**", "a/") && !of("a/**", "a"));
        assert!(of("**", "a/b") && of("a/**/z", "a/z") && of("a/**/z", "a/b/c/z"));
        assert!(of("a**z", "az") && of("a**z", "ab/z") && !of("a**z", "abz"));
        assert!(of("**/*.go", "x.go") && of("**/*.go", "a/b/x.go") && !of("**/*.go", "x.goo"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["[", "[]", "[a", "[b-a]", "a\\", "[a-", "[-a]", "[\\"] {
            assert!(Pattern::path(bad).is_err(), "{bad}");
            assert!(Pattern::ignore(bad).is_err(), "{bad}");
        }
        assert!(Pattern::path(&"a".repeat(5000)).is_err());
    }

    proptest! {
        #[test]
        fn no_pattern_panics_or_takes_long(pattern in "[a*?/\\[\\]\\\\^-]{0,40}", text in "[a/]{0,200}") {
            for pattern in [Pattern::path(&pattern), Pattern::ignore(&pattern)].into_iter().flatten() {
                let _ = pattern.matches(&text);
            }
        }

        #[test]
        fn a_plain_path_matches_itself_only(a in "[a-c/.]{0,8}", b in "[a-c/.]{0,8}") {
            prop_assert_eq!(Pattern::path(&a).unwrap().matches(&b), a == b);
            prop_assert_eq!(Pattern::ignore(&a).unwrap().matches(&b), a == b);
        }
    }
}
