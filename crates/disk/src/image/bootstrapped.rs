//! Images of the host's own distribution, bootstrapped with `mmdebstrap`: `minimal`, and the tiers
//! that have more.

use std::path::Path;

use base::{clock, process::Command};
use fs_err as fs;

use super::{
    ImageError, Made,
    tiers::{COMMON, Tier},
    tree::Tree,
};
use crate::{
    Listener,
    apt::{Apt, Release},
    erofs::{self, Meta},
    report,
};

/// What dpkg leaves out, now and whenever somebody installs a package in a sandbox: manuals and
/// translations. Licences stay.
const DPKG: [&str; 7] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
];

/// Programs that are told their locale find this one without any locale package.
const LOCALE: &str = "LANG=C.UTF-8\n";

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Everything below these goes: caches, logs, and traces of the build.
const EMPTIED: [&str; 8] = [
    "tmp",
    "run",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/log",
    "var/tmp",
];

/// Makes the image of `tier`, which is called `name`.
pub(super) fn make(
    work: &Path,
    image: &Path,
    (name, tier): (&'static str, &Tier),
    progress: Listener<'_>,
) -> Result<Made, ImageError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot(name));
    }
    let release = Release::of_host()?;
    let started = clock::unix_seconds();
    let tree = Tree::new(work.join("root"));
    let debian: Vec<&str> = COMMON.iter().chain(tier.packages).copied().collect();
    bootstrap(&release, work, tree.root(), &debian, progress)?;
    let mut packages = installed(tree.root())?;
    packages.extend(from_npm(work, &tree, tier.npm, progress)?);
    clean(&tree)?;
    for (path, content, mode) in tier.files {
        tree.put(path, content, *mode)?;
    }
    for (path, target) in tier.links {
        tree.link(path, target)?;
    }
    let newest = tree.settle_times(started)?;
    report(progress, "writing the image");
    erofs::make(tree.root(), image, Meta::Clamped(newest))?;
    let source = format!("{:?} {}, bootstrapped", release.family, release.codename);
    report(progress, "removing the unpacked files");
    Ok(Made { source, packages })
}

fn bootstrap(
    release: &Release,
    work: &Path,
    root: &Path,
    packages: &[&str],
    progress: Listener<'_>,
) -> Result<(), ImageError> {
    report(progress, "reading the host's package sources");
    let sources = Apt::default().sources(release, progress)?;
    let list = work.join("sources.list");
    // In name spaces of its own: whatever it mounts or leaves running ends with it, also if it
    // is killed.
    let mut command = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--", "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"])
        .args(["--format=directory", &format!("--include={}", packages.join(","))])
        .arg(format!("--components={}", release.components().join(",")))
        .args(DPKG.iter().map(|option| format!("--dpkgopt={option}")))
        .env("TMPDIR", work)
        .arg(&release.codename)
        .arg(root);
    // Without sources of the host's own, mmdebstrap knows the distribution's default.
    if !sources.is_empty() {
        fs::write(&list, sources.join("\n") + "\n")?;
        command = command.arg(&list);
    }
    let count = packages.len();
    report(
        progress,
        format!(
            "downloading and installing {} with {count} packages and what they need (the longest \
             step)",
            release.codename
        ),
    );
    // Otherwise a missing mmdebstrap would look like a failure of unshare.
    Command::new("mmdebstrap").arg("--version").output()?;
    command.output()?;
    Ok(())
}

/// The installed packages as `name=version`.
fn installed(root: &Path) -> Result<Vec<String>, ImageError> {
    let mut admin = root.as_os_str().to_owned();
    admin.push("/var/lib/dpkg");
    let output = Command::new("dpkg-query")
        .arg("--admindir")
        .arg(admin)
        .args(["--show", "--showformat", "${Package}=${Version}\n"])
        .output()?;
    Ok(String::from_utf8_lossy(&output).lines().map(str::to_owned).collect())
}

/// Installs packages of the npm registry where all users of the image find them, as
/// `name@version`. Nothing of them is run.
fn from_npm(
    work: &Path,
    tree: &Tree,
    packages: &[&str],
    progress: Listener<'_>,
) -> Result<Vec<String>, ImageError> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    report(progress, format!("installing {} from the npm registry", packages.join(", ")));
    tree.directory("usr/local/lib/node_modules", 0o755)?;
    let prefix = tree.root().join("usr/local");
    let mut npm = Command::new("npm");
    // Where whoever runs this has said which registry and which authorities he trusts.
    for name in ["HOME", "NODE_EXTRA_CA_CERTS"] {
        if let Some(value) = std::env::var_os(name) {
            npm = npm.env(name, value);
        }
    }
    npm.args(["install", "--global", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--loglevel=error", "--cache"])
        .arg(work.join("npm"))
        .arg("--prefix")
        .arg(&prefix)
        .args(packages)
        .output()?;
    let list = Command::new("npm")
        .args(["list", "--global", "--depth=0", "--parseable", "--long", "--prefix"])
        .arg(&prefix)
        .output()?;
    // Lines of path, name@version and more between colons; the first is the prefix itself.
    let lines = String::from_utf8_lossy(&list).into_owned();
    Ok(lines.lines().skip(1).filter_map(|line| line.split(':').nth(1)).map(str::to_owned).collect())
}

/// Removes what only the build needed or what would tell about the machine that built it.
fn clean(tree: &Tree) -> Result<(), ImageError> {
    for path in EMPTIED {
        // Directories stay, because programs expect those that their package made.
        tree.prune(path, &|entry| !entry.is_dir() || entry.is_symlink())?;
    }
    tree.prune("usr/share/doc", &|entry| {
        !entry.is_dir() && entry.file_name().is_some_and(|name| name != "copyright")
    })?;
    let backup = |entry: &Path| entry.to_string_lossy().ends_with("-old");
    tree.prune("var/lib/dpkg", &backup)?;
    for account in ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"] {
        tree.remove(&format!("etc/{account}-"))?;
    }
    tree.remove("var/lib/dbus/machine-id")?;
    tree.remove("var/lib/systemd/random-seed")?;
    // Empty, not missing: the agent fills in each sandbox's own.
    tree.put("etc/hostname", "", 0o644)?;
    tree.put("etc/machine-id", "", 0o444)?;
    // A plain file, because a link to somewhere in /run has nobody to make its target.
    tree.put("etc/resolv.conf", "", 0o644)?;
    tree.put("etc/hosts", HOSTS, 0o644)?;
    tree.put("etc/default/locale", LOCALE, 0o644)?;
    Ok(())
}
