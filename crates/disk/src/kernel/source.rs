//! Where a kernel and its modules come from.

use std::path::{Path, PathBuf};

use base::process::Command;
use fs_err as fs;

use super::KernelError;
use crate::{
    Listener,
    apt::{Apt, Family, Release},
    report,
};

/// Where to take a kernel from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// A kernel package of the host's distribution, which is not installed.
    Package {
        /// The image package or a meta package that leads to it; by default the kernel that the
        /// distribution makes for virtual machines.
        name: Option<String>,
    },
    /// A kernel that is installed on the host.
    Host {
        /// Its release; by default that of the running kernel.
        release: Option<String>,
    },
    /// Files given explicitly.
    Paths {
        /// A bzImage or an uncompressed ELF kernel.
        kernel: PathBuf,
        /// The modules that belong to it, as `/lib/modules/<release>`; the last component of the
        /// path is the release.
        modules_dir: PathBuf,
    },
}

/// A kernel that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) release: String,
    pub(super) kernel: PathBuf,
    /// A private directory that holds `<release>/…` and nothing else.
    pub(super) tree: PathBuf,
    pub(super) description: String,
}

/// Brings the kernel and its modules together in the private directory `work`.
pub(super) fn fetch(
    source: &KernelSource,
    work: &Path,
    progress: Listener<'_>,
) -> Result<Found, KernelError> {
    let found = match source {
        KernelSource::Package { name } => from_package(name.as_deref(), work, progress)?,
        KernelSource::Host { release } => {
            let release = match release {
                Some(release) => release.clone(),
                None => rustix::system::uname().release().to_string_lossy().into_owned(),
            };
            check_release(&release)?;
            let modules = Path::new("/lib/modules").join(&release);
            let inside = modules.join("vmlinuz");
            let kernel = PathBuf::from(format!("/boot/vmlinuz-{release}"));
            let kernel = if kernel.exists() || !inside.exists() { kernel } else { inside };
            from_paths(kernel, &modules, work, progress)?
        }
        KernelSource::Paths { kernel, modules_dir } => {
            from_paths(kernel.clone(), modules_dir, work, progress)?
        }
    };
    index(&found, work, progress)?;
    Ok(found)
}

fn from_package(
    name: Option<&str>,
    work: &Path,
    progress: Listener<'_>,
) -> Result<Found, KernelError> {
    let apt = Apt::default();
    let name = match name {
        Some(name) => name.to_owned(),
        None => default_package(Release::of_host()?.family),
    };
    report(progress, format!("looking for {name} among the host's packages"));
    let image = image_package(&apt, name, progress)?;
    let mut packages = vec![image.clone()];
    // Ubuntu keeps the modules in packages of their own, and erofs in the one that its image for
    // virtual machines does not depend on.
    let depends = apt.depends(&image, progress)?;
    for modules in depends.into_iter().filter(|package| is_real(package, "linux-modules-")) {
        let extra = modules.replacen("linux-modules-", "linux-modules-extra-", 1);
        if apt.exists(&extra) {
            packages.push(extra);
        }
        packages.push(modules);
    }
    let root = apt.unpack(&packages, &work.join("packages"), progress)?;

    let modules = ["lib/modules", "usr/lib/modules"].map(|path| root.join(path));
    let missing = |what: &str| KernelError::NotFound { reason: format!("{image} has no {what}") };
    let modules = modules.iter().find(|path| path.is_dir()).ok_or_else(|| missing("modules"))?;
    let release = only_entry(modules)?.ok_or_else(|| missing("single modules directory"))?;
    check_release(&release)?;
    let boot = root.join(format!("boot/vmlinuz-{release}"));
    let kernel = [boot, modules.join(&release).join("vmlinuz")];
    let kernel =
        kernel.into_iter().find(|path| path.is_file()).ok_or_else(|| missing("vmlinuz"))?;
    let tree = make_tree(work)?;
    let target = tree.join(&release);
    fs::rename(modules.join(&release), &target)?;
    // The kernel itself may have been moved along.
    let kernel = if kernel.exists() { kernel } else { target.join("vmlinuz") };
    Ok(Found { release, kernel, tree, description: format!("package {image}") })
}

fn from_paths(
    kernel: PathBuf,
    modules: &Path,
    work: &Path,
    progress: Listener<'_>,
) -> Result<Found, KernelError> {
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    check_release(&release)?;
    for path in [&kernel, modules] {
        if !path.exists() {
            return Err(KernelError::NotFound {
                reason: format!("there is no {}", path.display()),
            });
        }
    }
    let tree = make_tree(work)?;
    report(progress, format!("copying the modules of {release}"));
    Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .args([modules, &tree.join(&release)])
        .output()
        .map_err(crate::DiskError::from)?;
    let description = format!("kernel {} with {}", kernel.display(), modules.display());
    Ok(Found { release, kernel, tree, description })
}

/// `lib/modules` below `work`, also reachable as `usr/lib/modules`: depmod versions differ in
/// which of the two they look for.
fn make_tree(work: &Path) -> Result<PathBuf, KernelError> {
    let root = work.join("tree");
    let tree = root.join("lib/modules");
    fs::create_dir_all(&tree)?;
    fs::create_dir(root.join("usr"))?;
    fs_err::os::unix::fs::symlink("../lib", root.join("usr/lib"))?;
    Ok(tree)
}

/// Completes the modules' directory: packages are indexed only when they are installed.
fn index(found: &Found, work: &Path, progress: Listener<'_>) -> Result<(), KernelError> {
    let modules = found.tree.join(&found.release);
    // Links to kernel headers on the build host.
    for link in ["build", "source"] {
        base::files::remove_any(&modules.join(link))?;
    }
    if !modules.join("modules.dep").exists() {
        report(progress, "indexing the modules");
        Command::new("depmod")
            .arg("-b")
            .arg(work.join("tree"))
            .arg(&found.release)
            .output()
            .map_err(crate::DiskError::from)?;
    }
    Ok(())
}

fn default_package(family: Family) -> String {
    match family {
        Family::Debian => {
            let architecture = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            format!("linux-image-cloud-{architecture}")
        }
        Family::Ubuntu => "linux-image-virtual".to_owned(),
    }
}

/// Follows meta packages to the package that holds a kernel.
fn image_package(
    apt: &Apt,
    mut package: String,
    progress: Listener<'_>,
) -> Result<String, KernelError> {
    const IMAGE: &str = "linux-image-";
    // linux-virtual leads to linux-image-virtual leads to linux-image-6.8.0-…-generic.
    for _ in 0..3 {
        if is_real(&package, IMAGE) || is_real(&package, "linux-image-unsigned-") {
            return Ok(package);
        }
        let depends = apt.depends(&package, progress)?;
        let next = depends.iter().find(|name| is_real(name, IMAGE));
        let next = next.or_else(|| depends.iter().find(|name| name.starts_with(IMAGE)));
        let Some(next) = next else { break };
        package.clone_from(next);
    }
    Err(crate::AptError::Leads { package, wanted: "kernel image package" }.into())
}

/// Whether the package carries a version in its name, as packages with files do and meta packages
/// do not.
fn is_real(package: &str, prefix: &str) -> bool {
    package.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn only_entry(directory: &Path) -> Result<Option<String>, KernelError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(if names.len() == 1 { names.pop() } else { None })
}

/// A release becomes a directory name and an argument.
fn check_release(release: &str) -> Result<(), KernelError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._+~-".contains(&b);
    let first = release.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && release.len() < 128 && release.bytes().all(good) {
        return Ok(());
    }
    Err(KernelError::NotFound { reason: format!("{release:?} is not a kernel release") })
}
