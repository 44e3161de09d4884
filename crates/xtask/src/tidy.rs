//! The rules that neither the compiler nor clippy knows. Every check is a function of data and
//! says what is wrong, one line a problem.

mod files;
mod graph;
mod manifests;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::workspace::{self, Workspace};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What breaks a rule.
    pub problems: Vec<String>,
    /// What else people should know.
    pub notes: Vec<String>,
}

/// Checks the workspace that this program was built from.
///
/// # Errors
/// If the workspace cannot be read.
pub fn run() -> Result<Outcome> {
    let workspace = Workspace::read()?;
    let mut outcome = Outcome { problems: check(&workspace), notes: Vec::new() };
    match formatted(&workspace.root)? {
        Formatted::Yes => {}
        Formatted::No(files) => outcome.problems.extend(files),
        Formatted::Unknown => {
            let how = "rustup component add rustfmt";
            outcome.notes.push(format!("NOT CHECKED: the formatting; rustfmt is missing: {how}"));
        }
    }
    Ok(outcome)
}

/// All checks that are functions of data.
pub fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = graph::check(&workspace.graph);
    for manifest in &workspace.manifests {
        problems.extend(manifests::check(manifest));
    }
    for file in &workspace.files {
        problems.extend(files::check(file));
    }
    problems
}

enum Formatted {
    Yes,
    No(Vec<String>),
    Unknown,
}

fn formatted(root: &Path) -> Result<Formatted> {
    let version = workspace::cargo(root).args(["fmt", "--version"]).output();
    if !version.is_ok_and(|output| output.status.success()) {
        return Ok(Formatted::Unknown);
    }
    let arguments = ["fmt", "--all", "--check", "--", "-l"];
    let output = workspace::cargo(root).args(arguments).output().context("run cargo fmt")?;
    if output.status.success() {
        return Ok(Formatted::Yes);
    }
    let files = String::from_utf8_lossy(&output.stdout);
    let mut problems: Vec<String> = files
        .lines()
        .map(|file| {
            let path = Path::new(file).strip_prefix(root).unwrap_or(Path::new(file));
            format!("{}: is not formatted; run: cargo fmt --all", path.display())
        })
        .collect();
    if problems.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        problems.push(format!("cargo fmt failed: {}", said.trim()));
    }
    Ok(Formatted::No(problems))
}
