//! Has the files that the page of a shared terminal needs from elsewhere embedded. They are
//! installed beside our own, from a list with their hashes, and are in no repository of ours.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What is embedded, below `web/node_modules`.
const FILES: [&str; 5] = [
    "@xterm/xterm/lib/xterm.mjs",
    "@xterm/xterm/css/xterm.css",
    "@xterm/xterm/LICENSE",
    "@xterm/addon-fit/lib/addon-fit.mjs",
    "@xterm/addon-fit/LICENSE",
];

fn main() {
    let web = variable("CARGO_MANIFEST_DIR").join("web");
    let from = web.join("node_modules");
    println!("cargo::rerun-if-changed={}", web.join("package-lock.json").display());
    for file in FILES {
        println!("cargo::rerun-if-changed={}", from.join(file).display());
        assert!(
            from.join(file).is_file(),
            "{} is missing: run `make bootstrap`, which installs it (npm ci in {})",
            from.join(file).display(),
            web.display()
        );
    }
    // A list whose versions were raised is not what was installed before.
    assert_eq!(
        installed(&from.join(".package-lock.json")),
        installed(&web.join("package-lock.json")),
        "what is in {} is not what package-lock.json names: run `make bootstrap`",
        from.display()
    );
    println!("cargo::rustc-env=BHATTI_WEB={}", from.display());
}

/// The hashes that a list of packages names.
fn installed(list: &Path) -> Vec<String> {
    let text = fs::read_to_string(list)
        .unwrap_or_else(|error| panic!("{}: {error}; run `make bootstrap`", list.display()));
    let mut hashes: Vec<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"integrity\":"))
        .map(|hash| hash.trim().to_owned())
        .collect();
    hashes.sort();
    hashes
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("{name} is set by cargo")).into()
}
