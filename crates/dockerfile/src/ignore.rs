//! What a `.dockerignore` leaves out.
//!
//! The last pattern that matches a path, or a directory above it, decides. One that begins with
//! `!` takes the path in again.

use crate::{Invalid, Pattern};

/// Most patterns of one file.
const PATTERNS_MAX: usize = 10_000;

/// What a `.dockerignore` says.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    /// Each with whether it leaves out.
    patterns: Vec<(Pattern, bool)>,
}

impl Ignore {
    /// Reads the file's text.
    ///
    /// # Errors
    /// A line is no pattern.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut patterns = Vec::new();
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (line, out) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), false),
                None => (line, true),
            };
            if line.is_empty() {
                return Err(Invalid::new(index + 1, "! needs a pattern"));
            }
            let pattern = Pattern::ignore(&clean(line))
                .map_err(|error| Invalid::new(index + 1, error.to_string()))?;
            patterns.push((pattern, out));
            if patterns.len() > PATTERNS_MAX {
                let message = format!("there are more than {PATTERNS_MAX} patterns");
                return Err(Invalid::new(index + 1, message));
            }
        }
        Ok(Self { patterns })
    }

    /// Whether a path relative to the context, without slashes at its ends, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let prefixes: Vec<&str> = ends.map(|end| &path[..end]).collect();
        let decides = |(pattern, _): &&(Pattern, bool)| prefixes.iter().any(|p| pattern.matches(p));
        self.patterns.iter().rev().find(decides).is_some_and(|(_, out)| *out)
    }

    /// Whether something below a directory that is left out may be taken in.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|(_, out)| !out)
    }
}

/// A pattern without `.`, `..`, doubled slashes and a slash at either end.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let ignore = Ignore::parse(
            "# comment\n\n/node_modules/\n*.md\n!README*.md\nREADME-secret.md\n**/*.o\n  temp?  \nd/./x//y\n",
        )
        .unwrap();
        for out in [
            "node_modules",
            "node_modules/a/b",
            "a.md",
            "README-secret.md",
            "x.o",
            "a/b/x.o",
            "temp1",
            "temp1/f",
            "d/x/y/z",
        ] {
            assert!(ignore.excludes(out), "{out}");
        }
        for stays in
            ["a/node_modules", "README.md", "README-x.md", "a/a.md", "temp", "src", "# comment"]
        {
            assert!(!ignore.excludes(stays), "{stays}");
        }
        assert!(ignore.has_exceptions());
    }

    #[test]
    fn exceptions_reach_into_what_is_left_out() {
        let ignore = Ignore::parse("*\n!src\n!a/b\nsrc/*.tmp").unwrap();
        assert!(ignore.excludes("x") && ignore.excludes("a") && ignore.excludes("a/c"));
        assert!(
            !ignore.excludes("src") && !ignore.excludes("src/x/y") && !ignore.excludes("a/b/c")
        );
        assert!(ignore.excludes("src/x.tmp") && !ignore.excludes("src/x/y.tmp"));
        let ignore = Ignore::parse("**\n!**/*.rs").unwrap();
        assert!(!ignore.excludes("a/b/c.rs") && ignore.excludes("a/b") && ignore.excludes("a.c"));
        assert!(!Ignore::parse("a\n").unwrap().has_exceptions());
    }

    #[test]
    fn what_is_no_pattern_names_its_line() {
        assert_eq!(Ignore::parse("a\n[\n").unwrap_err().line, 2);
        assert_eq!(Ignore::parse("!\n").unwrap_err().line, 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[!a*/.\n\\[]{0,60}|.{0,40}", path in "[a/.]{0,20}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = ignore.excludes(&path);
            }
        }

        #[test]
        fn what_is_in_a_directory_that_is_left_out_is_left_out(name in "[a-c]{1,3}", rest in "[a-c/]{1,6}") {
            let path = format!("{name}/{rest}");
            prop_assert!(Ignore::parse(&name).unwrap().excludes(&path));
        }
    }
}
