//! One place for versions and lints: the workspace's manifest.

use toml::{Table, Value};

use crate::workspace::Manifest;

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
/// Crates that others may bring along, but that we do not use: std or `rustix` does the same.
const BARRED: [&str; 4] = ["lazy_static", "libc", "nix", "once_cell"];

pub(super) fn check(manifest: &Manifest) -> Vec<String> {
    let mut problems = Vec::new();
    let Manifest { package, content } = manifest;
    if !is_inherited(content.get("lints")) {
        problems.push(format!("{package}: [lints] workspace = true is missing"));
    }
    let targets = content.get("target").and_then(Value::as_table);
    let tables = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    for table in tables.chain([content]) {
        for section in SECTIONS {
            let dependencies = table.get(section).and_then(Value::as_table);
            for (name, value) in dependencies.into_iter().flatten() {
                if BARRED.contains(&name.as_str()) {
                    problems.push(format!("{package}: {name} must not be used directly"));
                }
                // A crate's tests may ask for a feature of the crate itself.
                if name != package && !is_inherited(Some(value)) {
                    problems.push(format!("{package}: {name} is not {{ workspace = true }}"));
                }
            }
        }
    }
    problems
}

fn is_inherited(value: Option<&Value>) -> bool {
    let workspace = value.and_then(|value| value.get("workspace"));
    workspace.and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        check(&Manifest { package: "p".into(), content: toml::from_str(text).unwrap() })
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn inherited_dependencies_pass() {
        let text = format!(
            "{LINTS}[dependencies]\na.workspace = true\nb = {{ workspace = true, optional = true \
             }}\n[dev-dependencies]\np = {{ path = '.' }}\n"
        );
        assert_eq!(problems(&text), [""; 0]);
    }

    #[test]
    fn versions_outside_the_workspace_are_found_wherever_they_are() {
        for section in ["dependencies", "dev-dependencies", "target.'cfg(unix)'.dependencies"] {
            for dependency in ["a = '1'", "a = { version = '1' }", "a = { path = '../a' }"] {
                let text = format!("{LINTS}[{section}]\n{dependency}\n");
                assert_eq!(problems(&text), ["p: a is not { workspace = true }"], "{text}");
            }
        }
    }

    #[test]
    fn own_lints_are_found() {
        for text in ["", "[lints.rust]\nunused = 'allow'\n", "[lints]\nworkspace = false\n"] {
            assert_eq!(problems(text), ["p: [lints] workspace = true is missing"], "{text}");
        }
    }

    #[test]
    fn barred_crates_are_found() {
        let text = format!("{LINTS}[dependencies]\nlibc.workspace = true\n");
        assert_eq!(problems(&text), ["p: libc must not be used directly"]);
    }
}
