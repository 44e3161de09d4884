//! From text to instructions: comments, continued lines, directives, here-documents.

use crate::{Invalid, words};

/// Most here-documents of one instruction.
const HEREDOCS_MAX: usize = 64;

/// A text whose lines belong to the instruction before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The word that ends it, without its quotes.
    pub name: String,
    /// Its lines; without their first tabs if that was asked for.
    pub content: String,
    /// Whether its word stood in no quotes.
    pub expand: bool,
    /// Its lines and the one that ends it, as they stand.
    pub raw: String,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it begins, counted from 1.
    pub number: usize,
    /// Its first word, in upper case.
    pub keyword: String,
    /// Everything after that, on one line.
    pub rest: String,
    /// The texts that belong to it.
    pub heredocs: Vec<Heredoc>,
}

/// Takes the text apart. Gives the escape character, too.
pub(crate) fn split(text: &str) -> Result<(char, Vec<Line>), Invalid> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = directives(text)?;
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    while let Some((index, first)) = lines.next() {
        if first.trim().is_empty() || is_comment(first) {
            continue;
        }
        let mut whole = String::new();
        let mut piece = first.trim_start();
        while let Some(before) = continued(piece, escape) {
            whole.push_str(before);
            let more = lines.find(|(_, line)| !line.trim().is_empty() && !is_comment(line));
            piece = more.map_or("", |(_, line)| line);
        }
        whole.push_str(piece);
        let whole = whole.trim();
        let (keyword, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
        if keyword.is_empty() {
            continue;
        }
        let mut line = Line {
            number: index + 1,
            keyword: keyword.to_ascii_uppercase(),
            rest: rest.trim().to_owned(),
            heredocs: Vec::new(),
        };
        if matches!(line.keyword.as_str(), "RUN" | "COPY" | "ADD") {
            for mark in marks(&line, escape)? {
                let content = mark.read(&mut lines, line.number)?;
                line.heredocs.push(content);
            }
        }
        found.push(line);
    }
    Ok((escape, found))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// What stands before the mark by which a line goes on, if it has one.
fn continued(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t', '\r']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// Reads the directives, which are comments before everything else.
fn directives(text: &str) -> Result<char, Invalid> {
    let mut escape = None;
    for (index, line) in text.lines().enumerate() {
        let Some(comment) = line.trim().strip_prefix('#') else { break };
        let Some((key, value)) = comment.split_once('=') else { break };
        match key.trim().to_ascii_lowercase().as_str() {
            "escape" if escape.is_some() => {
                return Err(Invalid::new(index + 1, "the directive escape is there twice"));
            }
            "escape" => match value.trim() {
                "\\" => escape = Some('\\'),
                "`" => escape = Some('`'),
                _ => return Err(Invalid::new(index + 1, "escape can be \\ or `")),
            },
            "syntax" | "check" => {}
            _ => break,
        }
    }
    Ok(escape.unwrap_or('\\'))
}

/// Where a here-document is asked for.
struct Mark {
    name: String,
    expand: bool,
    tabs: bool,
}

fn marks(line: &Line, escape: char) -> Result<Vec<Mark>, Invalid> {
    let words = words::split(&line.rest, escape);
    let marks: Vec<Mark> = words.iter().filter_map(|word| mark(word)).collect();
    if marks.len() > HEREDOCS_MAX {
        let message = format!("an instruction has at most {HEREDOCS_MAX} here-documents");
        return Err(Invalid::new(line.number, message));
    }
    Ok(marks)
}

/// What `<<NAME`, `<<-NAME` or `<<"NAME"` asks for.
fn mark(word: &str) -> Option<Mark> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    let fits = !name.is_empty() && name.chars().all(plain);
    fits.then_some(Mark { expand: name.len() == rest.len(), name, tabs })
}

/// Whether a word asks for a here-document.
pub(crate) fn is_mark(word: &str) -> bool {
    mark(word).is_some()
}

impl Mark {
    fn read<'a>(
        self,
        lines: &mut impl Iterator<Item = (usize, &'a str)>,
        number: usize,
    ) -> Result<Heredoc, Invalid> {
        let Self { name, expand, tabs } = self;
        let (mut content, mut raw) = (String::new(), String::new());
        for (_, line) in lines {
            raw.push_str(line);
            raw.push('\n');
            let line = if tabs { line.trim_start_matches('\t') } else { line };
            if line == name {
                return Ok(Heredoc { name, content, expand, raw });
            }
            content.push_str(line);
            content.push('\n');
        }
        Err(Invalid::new(number, format!("the here-document {name} is not ended")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, String)> {
        let (_, lines) = split(text).unwrap();
        lines.into_iter().map(|l| (l.number, format!("{} {}", l.keyword, l.rest))).collect()
    }

    #[test]
    fn lines_go_on_over_comments_and_blank_lines() {
        let text = "# a comment\n\n from a \nRUN x \\\n  # not this\n\n   && y\\\nz\nCMD q\\";
        assert_eq!(
            lines(text),
            [(3, "FROM a".into()), (4, "RUN x    && yz".into()), (9, "CMD q".into())]
        );
        assert_eq!(
            lines("RUN a \\ \t\r\n b\r\nRUN c"),
            [(1, "RUN a  b".into()), (3, "RUN c".into())]
        );
        assert_eq!(lines("RUN a\\\\\nRUN b").len(), 2, "an escaped one continues nothing");
    }

    #[test]
    fn the_escape_character_can_be_another() {
        let text = "# syntax=docker/dockerfile:1\n# Escape = `\nRUN a `\n b\nRUN c\\\nRUN d";
        assert_eq!(split(text).unwrap().0, '`');
        assert_eq!(lines(text).len(), 3);
        assert_eq!(split("\n# escape=`\nRUN a").unwrap().0, '\\', "only at the very beginning");
        assert_eq!(split("# escape=x\n").unwrap_err().line, 1);
        assert_eq!(split("# escape=`\n# escape=`\n").unwrap_err().line, 2);
    }

    #[test]
    fn texts_that_stand_in_the_file_belong_to_their_instruction() {
        let text = "RUN <<EOF cat <<-'B'\n# a\n\nEOF\n\tb\n\tB\nCMD x";
        let (_, found) = split(text).unwrap();
        assert_eq!(found.len(), 2);
        let [a, b] = &found[0].heredocs[..] else { panic!("{found:?}") };
        assert_eq!((a.name.as_str(), a.content.as_str(), a.expand), ("EOF", "# a\n\n", true));
        assert_eq!((b.name.as_str(), b.content.as_str(), b.expand), ("B", "b\n", false));
        assert_eq!(b.raw, "\tb\n\tB\n");
        assert!(split("RUN <<EOF\na").unwrap_err().message.contains("EOF"));
        for none in ["RUN a <<<b", "RUN echo $((1<<2))", "RUN [\"a\", \"x <<EOF\"]", "ENV a <<B"] {
            assert!(split(none).unwrap().1[0].heredocs.is_empty(), "{none}");
        }
    }
}
