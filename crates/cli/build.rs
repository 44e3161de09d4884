//! Builds the guest agent, so that the one binary `bhatti` carries the `lohar` it belongs to.
//!
//! The agent is built by a nested cargo: static, for the architecture that `bhatti` is built for,
//! with a profile of its own. It gets a target directory of its own, because the outer cargo holds
//! the lock of its build directory while this script runs. `BHATTI_LOHAR_BIN` names an agent that
//! is there already.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What the outer build says about itself, which must not shape the inner one.
const OUTER: &[&str] = &[
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
];

fn main() {
    println!("cargo::rerun-if-env-changed=BHATTI_LOHAR_BIN");
    let agent = match env::var_os("BHATTI_LOHAR_BIN") {
        Some(path) => prebuilt(Path::new(&path)),
        None => build(),
    };
    println!("cargo::rustc-env=BHATTI_LOHAR={}", agent.display());
}

fn prebuilt(path: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed={}", path.display());
    path.canonicalize()
        .unwrap_or_else(|error| panic!("BHATTI_LOHAR_BIN={}: {error}", path.display()))
}

fn build() -> PathBuf {
    let workspace = variable("CARGO_MANIFEST_DIR").join("../..").canonicalize().expect("workspace");
    for path in ["Cargo.toml", "Cargo.lock", "crates/lohar", "crates/proto"] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    let target_dir = outer_target_dir().join("lohar");
    let triple = format!("{}-unknown-linux-gnu", variable("CARGO_CFG_TARGET_ARCH").display());
    #[expect(clippy::disallowed_methods, reason = "the nested cargo needs this environment")]
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--locked", "--package", "lohar", "--bin", "lohar"])
        .args(["--profile", "agent", "--target", &triple, "--target-dir"])
        .arg(&target_dir)
        .current_dir(&workspace);
    for name in OUTER {
        cargo.env_remove(name);
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    let status = cargo.status().unwrap_or_else(|error| panic!("run {cargo:?}: {error}"));
    assert!(status.success(), "building the guest agent failed ({status}): {cargo:?}");
    target_dir.join(triple).join("agent/lohar")
}

/// The directory that this build writes to: `OUT_DIR` is `<target>[/<triple>]/<profile>/build/…`.
fn outer_target_dir() -> PathBuf {
    let out_dir = variable("OUT_DIR");
    out_dir
        .ancestors()
        .find(|path| path.ends_with("build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or_else(|| panic!("no target directory above {}", out_dir.display()))
        .to_owned()
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("{name} is set by cargo")).into()
}
