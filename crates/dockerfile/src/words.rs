//! Words of a line. Quotes and escapes stay in them: [`expand`](crate::expand) takes them off.

/// The first word and what comes after it.
pub(crate) fn first(text: &str, escape: char) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            _ if c == escape => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c.is_whitespace() => return Some((&text[..at], text[at..].trim_start())),
            None => {}
        }
    }
    (!text.is_empty()).then_some((text, ""))
}

/// All words.
pub(crate) fn split(mut text: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    while let Some((word, rest)) = first(text, escape) {
        words.push(word);
        text = rest;
    }
    words
}

/// The strings of a JSON list; `None` if it is none.
pub(crate) fn json(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// One `--name=value` at the beginning; the value is empty if it has none.
pub(crate) fn flag(text: &str, escape: char) -> Option<((&str, Option<&str>), &str)> {
    let (word, rest) = first(text, escape)?;
    let flag = word.strip_prefix("--").filter(|flag| !flag.is_empty())?;
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    };
    Some(((name, value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_keep_words_together() {
        assert_eq!(
            split(r#" a "b c"d  e\ f 'g "h' "#, '\\'),
            ["a", r#""b c"d"#, r"e\ f", "'g \"h'"]
        );
        assert_eq!(split(r#""never ended  x"#, '\\'), [r#""never ended  x"#]);
        assert!(split(" \t", '\\').is_empty());
    }

    #[test]
    fn flags_stand_first() {
        assert_eq!(flag("--from=a b", '\\'), Some((("from", Some("a")), "b")));
        assert_eq!(flag("--link x", '\\'), Some((("link", None), "x")));
        assert_eq!(flag("a --from=b", '\\'), None);
        assert_eq!(flag("-- a", '\\'), None);
    }

    #[test]
    fn a_list_is_one_of_strings() {
        assert_eq!(json(r#" ["a", "b c"] "#), Some(vec!["a".into(), "b c".into()]));
        for none in ["[a]", "[1]", "[\"a\",]", "a", "[ -f x ]"] {
            assert_eq!(json(none), None, "{none}");
        }
    }
}
