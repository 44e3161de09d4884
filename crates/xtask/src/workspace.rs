//! What there is: crates, manifests and files, as data for the checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// A file of the project that holds text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Path below the workspace.
    pub path: String,
    /// Everything in it.
    pub text: String,
}

/// A crate's manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The package's name.
    pub package: String,
    /// The whole of it.
    pub content: toml::Table,
}

/// Which crates of the workspace each of them depends on, tests included.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// What the checks look at.
#[derive(Debug)]
pub struct Workspace {
    /// Its directory.
    pub root: PathBuf,
    /// The crates and who depends on whom.
    pub graph: Graph,
    /// The crates' manifests.
    pub manifests: Vec<Manifest>,
    /// All text files of the project.
    pub files: Vec<TextFile>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Only dependencies that lie in the workspace have one.
    path: Option<PathBuf>,
}

impl Workspace {
    /// Reads the workspace that this program was built from.
    ///
    /// # Errors
    /// If cargo fails or a file cannot be read.
    pub fn read() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = fs_err::canonicalize(root)?;
        let metadata = metadata(&root)?;
        let manifests = metadata.packages.iter().map(manifest).collect::<Result<_>>()?;
        let graph = metadata.packages.into_iter().map(edges).collect();
        let files = text_files(&root)?;
        Ok(Self { root, graph, manifests, files })
    }
}

/// The cargo that runs us, or the one in the `PATH`.
pub(crate) fn cargo(root: &Path) -> Command {
    program(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), root)
}

fn program(name: &str, root: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "chores do not depend on the product's crates")]
    let mut command = Command::new(name);
    command.current_dir(root);
    command
}

fn succeeded(output: &Output, what: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} failed: {}", said.trim());
    Ok(())
}

fn metadata(root: &Path) -> Result<Metadata> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = cargo(root).args(arguments).output().context("run cargo metadata")?;
    succeeded(&output, "cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("read what cargo metadata printed")
}

fn manifest(package: &Package) -> Result<Manifest> {
    let text = fs_err::read_to_string(&package.manifest_path)?;
    let content =
        toml::from_str(&text).with_context(|| format!("read the manifest of {}", package.name))?;
    Ok(Manifest { package: package.name.clone(), content })
}

fn edges(package: Package) -> (String, BTreeSet<String>) {
    let inside = package.dependencies.into_iter().filter(|d| d.path.is_some()).map(|d| d.name);
    // A crate's tests may ask for a feature of the crate itself.
    let others = inside.filter(|name| *name != package.name).collect();
    (package.name, others)
}

fn text_files(root: &Path) -> Result<Vec<TextFile>> {
    let paths = match tracked(root) {
        Some(paths) => paths,
        None => {
            let mut paths = Vec::new();
            walk(root, Path::new(""), &mut paths)?;
            paths
        }
    };
    let mut files = Vec::new();
    for path in paths {
        let full = root.join(&path);
        // Something tracked may just have been deleted, and links are not text of their own.
        if !full.is_file() || full.is_symlink() {
            continue;
        }
        if let Ok(text) = String::from_utf8(fs_err::read(full)?) {
            files.push(TextFile { path, text });
        }
    }
    Ok(files)
}

/// What git tracks or would track; `None` without git.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = program("git", root).args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    let mut paths: Vec<String> =
        text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Some(paths)
}

/// Collects all files below `directory`, except for build results and version control.
fn walk(root: &Path, directory: &Path, paths: &mut Vec<String>) -> Result<()> {
    for entry in fs_err::read_dir(root.join(directory))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = directory.join(&name);
        if entry.file_type()?.is_dir() {
            if name != "target" && name != ".git" {
                walk(root, &path, paths)?;
            }
        } else {
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found_with_its_crates_and_files() {
        let workspace = Workspace::read().unwrap();
        assert!(workspace.graph.contains_key("xtask"));
        assert!(workspace.manifests.iter().any(|manifest| manifest.package == "base"));
        assert!(workspace.files.iter().any(|file| file.path == "crates/xtask/src/lib.rs"));
    }

    #[test]
    fn without_git_files_are_found_by_walking() {
        let workspace = Workspace::read().unwrap();
        let mut paths = Vec::new();
        walk(&workspace.root, Path::new(""), &mut paths).unwrap();
        assert!(paths.iter().any(|path| path == "crates/xtask/src/lib.rs"));
        assert!(!paths.iter().any(|path| path.starts_with("target/")));
    }
}
