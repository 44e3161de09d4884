//! Takes quotes off and puts variables in, as Docker's builder does.

use std::{iter::Peekable, str::Chars};

/// How deep `${a:-${b:-…}}` may go.
const DEPTH_MAX: usize = 32;

/// Most bytes that one word may become.
const WORD_MAX: usize = 1 << 20;

/// What a variable is, if it is set.
pub(crate) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// One word without its quotes and with its variables.
///
/// # Errors
/// Says what is wrong with the word.
pub(crate) fn word(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<String, String> {
    let mut reader = Reader { chars: text.chars().peekable(), escape, lookup, depth: 0, made: 0 };
    reader.until(None)
}

/// As [`word`], for a text whose quotes mean themselves.
///
/// # Errors
/// As there.
pub(crate) fn text(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<String, String> {
    let mut reader = Reader { chars: text.chars().peekable(), escape, lookup, depth: 0, made: 0 };
    let mut whole = String::new();
    while let Some(c) = reader.chars.next() {
        match c {
            '$' => whole.push_str(&reader.dollar()?),
            c if c == escape && reader.chars.peek() == Some(&'$') => {
                whole.push('$');
                reader.chars.next();
            }
            c => whole.push(c),
        }
    }
    Ok(whole)
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    lookup: &'a Lookup<'a>,
    depth: usize,
    made: usize,
}

impl Reader<'_> {
    /// Reads up to `stop`, which is taken, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut word = String::new();
        while let Some(c) = self.chars.next() {
            match c {
                c if Some(c) == stop => return Ok(word),
                '\'' => self.single(&mut word)?,
                '"' => self.double(&mut word)?,
                '$' => word.push_str(&self.dollar()?),
                c if c == self.escape => word.extend(self.chars.next()),
                c => word.push(c),
            }
        }
        match stop {
            Some(stop) => Err(format!("there is no {stop} that ends a variable")),
            None => Ok(word),
        }
    }

    fn single(&mut self, word: &mut String) -> Result<(), String> {
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            word.push(c);
        }
        Err("a single quote is not closed".to_owned())
    }

    fn double(&mut self, word: &mut String) -> Result<(), String> {
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return Ok(()),
                '$' => word.push_str(&self.dollar()?),
                c if c == self.escape => match self.chars.next() {
                    Some(next) if matches!(next, '"' | '$') || next == self.escape => {
                        word.push(next);
                    }
                    next => {
                        word.push(c);
                        word.extend(next);
                    }
                },
                c => word.push(c),
            }
        }
        Err("a double quote is not closed".to_owned())
    }

    /// What stands for a variable, after its `$`.
    fn dollar(&mut self) -> Result<String, String> {
        let value = match self.chars.peek() {
            Some('{') => {
                self.chars.next();
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(format!("variables are nested deeper than {DEPTH_MAX}"));
                }
                let value = self.braced()?;
                self.depth -= 1;
                value
            }
            _ => match self.name().as_str() {
                "" => "$".to_owned(),
                name => (self.lookup)(name).unwrap_or_default(),
            },
        };
        self.made += value.len();
        if self.made > WORD_MAX {
            return Err(format!("variables make more than {WORD_MAX} bytes of a word"));
        }
        Ok(value)
    }

    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() {
            return Err("${ must be followed by a variable's name".to_owned());
        }
        let set = (self.lookup)(&name);
        let mut operator = self.chars.next();
        if operator == Some('}') {
            return Ok(set.unwrap_or_default());
        }
        let mut counts = set;
        if operator == Some(':') {
            operator = self.chars.next();
            // What is empty counts as not set.
            counts = counts.filter(|value| !value.is_empty());
        }
        let Some(operator @ ('-' | '+' | '?')) = operator else {
            let operator = operator.map(String::from).unwrap_or_default();
            return Err(format!(
                "${{{name}{operator}…}} is not supported: there are :- and :+, - and +, :? and ?"
            ));
        };
        let other = self.until(Some('}'))?;
        match (operator, counts) {
            ('-', None) => Ok(other),
            ('+', None) => Ok(String::new()),
            ('+', Some(_)) => Ok(other),
            (_, Some(value)) => Ok(value),
            (_, None) if other.is_empty() => Err(format!("{name} is not set")),
            (_, None) => Err(format!("{name}: {other}")),
        }
    }

    /// The name of a variable, or nothing.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let Some(first) = self.chars.peek().copied() else { return name };
        if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            self.chars.next();
            return first.to_string();
        }
        let digits = first.is_ascii_digit();
        while let Some(c) = self.chars.peek().copied() {
            let fits =
                if digits { c.is_ascii_digit() } else { c.is_ascii_alphanumeric() || c == '_' };
            if !fits {
                break;
            }
            name.push(c);
            self.chars.next();
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "a" => Some("A b".to_owned()),
            "empty" => Some(String::new()),
            _ => None,
        }
    }

    fn of(text: &str) -> Result<String, String> {
        word(text, '\\', &lookup)
    }

    #[test]
    fn variables_quotes_and_escapes_are_read_as_docker_does() {
        for (text, expected) in [
            ("x$a.y", "xA b.y"),
            ("${a}y", "A by"),
            ("$ay|$no", "|"),
            ("'$a'", "$a"),
            ("\"$a 'x'\"", "A b 'x'"),
            (r"\$a \x", "$a x"),
            (r#""\$a \x \" \\""#, r#"$a \x " \"#),
            ("${a:-x} ${no:-x} ${empty:-x} ${empty-x}", "A b x x "),
            ("${a:+x} ${no:+x} ${empty:+x} ${empty+x}", "x   x"),
            ("${no:-${no:-$a}}", "A b"),
            ("${no:-'a}b'}", "a}b"),
            ("${a:?m}", "A b"),
            ("$", "$"),
            ("a$.b", "a$.b"),
            ("$1x$$", "x"),
            ("a\\", "a"),
        ] {
            assert_eq!(of(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for bad in
            ["'a", "\"a", "${a", "${}", "${a:-x", "${a%x}", "${no:?}", "${no?m}", "${a/b/c}", "${"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert_eq!(of("${no:?say so}").unwrap_err(), "no: say so");
        assert!(of(&"${no:-".repeat(10_000)).is_err());
        let long = |_: &str| Some("x".repeat(1 << 16));
        assert!(word(&"$a".repeat(100), '\\', &long).is_err());
    }

    #[test]
    fn in_a_text_quotes_are_nothing_special() {
        let of = |t: &str| text(t, '\\', &lookup);
        assert_eq!(of("it's \"$a\" \\$a \\n").as_deref(), Ok("it's \"A b\" $a \\n"));
    }

    proptest! {
        #[test]
        fn no_word_panics(text in "[a$\\{}:+?'\" -]{0,60}|.{0,60}") {
            let _ = of(&text);
            let _ = super::text(&text, '`', &lookup);
        }

        #[test]
        fn what_is_quoted_is_itself(text in "[^']{0,40}") {
            prop_assert_eq!(of(&format!("'{text}'")), Ok(text));
        }
    }
}
