//! What may stand in a file.

use crate::workspace::TextFile;

/// Lines of code that a file may have, tests not counted.
const LINES_MAX: usize = 500;
/// Where every package may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Words in code that say that it is not finished. Written in two halves, so that this file may
/// be checked too.
const UNFINISHED_CODE: [&str; 3] =
    [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];
/// Words in any text that say so.
const UNFINISHED_TEXT: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
/// Beginnings of paths that exist only where somebody happens to work.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/root/", ".cargo")];

pub(super) fn check(file: &TextFile) -> Vec<String> {
    let mut problems = Vec::new();
    let mut add = |line: usize, what: String| {
        problems.push(format!("{}:{line}: {what}", file.path));
    };
    if file.path.ends_with(".rs") {
        check_code(file, &mut add);
    }
    if file.path.ends_with("Cargo.lock") {
        check_lock(&file.text, &mut add);
        return problems;
    }
    for (line, number) in file.text.lines().zip(1..) {
        for word in UNFINISHED_TEXT.iter().filter(|word| has_word(line, word)) {
            add(number, format!("{word}: finish it, or say why it is as it is"));
        }
        for path in MACHINE_PATHS.iter().filter(|path| has_path(line, path)) {
            add(number, format!("{path} exists only on somebody's machine"));
        }
    }
    problems
}

fn check_code(file: &TextFile, add: &mut impl FnMut(usize, String)) {
    let lines = code_lines(&file.path, &file.text);
    if lines > LINES_MAX {
        add(lines, format!("{lines} lines without tests; {LINES_MAX} are allowed"));
    }
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let opens_module = ["lib.rs", "main.rs", "mod.rs"].contains(&name);
    if opens_module && !file.text.starts_with("//!") {
        add(1, "does not begin with a //! comment that says what it is".to_owned());
    }
    for (line, number) in file.text.lines().zip(1..) {
        for word in UNFINISHED_CODE.iter().filter(|word| line.contains(*word)) {
            add(number, format!("{word} has no place in finished code"));
        }
    }
}

/// Lines up to the tests; a file that holds nothing but tests has none.
fn code_lines(path: &str, text: &str) -> usize {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].ends_with('{') && pair[1].contains("mod ")
    });
    tests.unwrap_or(lines.len())
}

fn check_lock(text: &str, add: &mut impl FnMut(usize, String)) {
    for (line, number) in text.lines().zip(1..) {
        let source = line.strip_prefix("source = ").map(|value| value.trim_matches('"'));
        if source.is_some_and(|source| source != REGISTRY) {
            add(number, "a package does not come from the public registry".to_owned());
        }
    }
}

/// Whether `word` stands alone in `line`.
fn has_word(line: &str, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(joins) && !after.starts_with(joins)
    })
}

/// Whether an absolute path begins with `path` in `line`. With something before it, it is the
/// middle of another path.
fn has_path(line: &str, path: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || "._-~*}$/".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(joins))
}

#[cfg(test)]
mod tests;
