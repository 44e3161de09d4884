//! Packages of the host's own distribution, fetched and unpacked but never installed.
//!
//! apt does what it is for: choosing the archive, following meta packages and checking
//! signatures. Its own parser also says which of the configured archives belong to the
//! distribution.

use std::{
    cell::Cell,
    io,
    path::{Path, PathBuf},
};

use base::process::{Command, ProcessError};
use fs_err as fs;

use crate::{Listener, error::tool_hint, report};

/// A package that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A file operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A tool is missing or failed.
    #[error(transparent)]
    Tool(#[from] ProcessError),
    /// This is neither Debian nor Ubuntu nor derived from one of them.
    #[error("{0:?} is neither Debian nor Ubuntu")]
    Distribution(String),
    /// A package depends on nothing of the kind looked for.
    #[error("package {package} leads to no {wanted}")]
    Leads {
        /// The package.
        package: String,
        /// What was expected among its dependencies.
        wanted: &'static str,
    },
    /// A package name that apt could take for something else.
    #[error("{0:?} is no package name")]
    Name(String),
    /// A download succeeded without a file to show for it.
    #[error("apt-get downloaded no package file for {0}")]
    NoFile(String),
}

impl AptError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tool(ProcessError::Failed { .. }) => {
                Some("check the network and the host's apt sources with apt-get update".to_owned())
            }
            Self::Tool(error) => tool_hint(error),
            _ => None,
        }
    }
}

/// A distribution whose packages we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Debian,
    Ubuntu,
}

/// What `/etc/os-release` says, see `os-release(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) family: Family,
    /// The release's code name: the suite in the archive.
    pub(crate) codename: String,
}

impl Release {
    pub(crate) fn of_host() -> Result<Self, AptError> {
        Self::parse(&fs::read_to_string("/etc/os-release")?)
    }

    fn parse(text: &str) -> Result<Self, AptError> {
        let field = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        let id = field("ID").unwrap_or_default();
        // Derivatives say which release of their parent they are built on.
        let found = match id.as_str() {
            "debian" => field("VERSION_CODENAME").map(|name| (Family::Debian, name)),
            "ubuntu" => field("VERSION_CODENAME").map(|name| (Family::Ubuntu, name)),
            _ => field("UBUNTU_CODENAME")
                .map(|name| (Family::Ubuntu, name))
                .or_else(|| field("DEBIAN_CODENAME").map(|name| (Family::Debian, name))),
        };
        let (family, codename) = found.ok_or(AptError::Distribution(id))?;
        Ok(Self { family, codename })
    }

    /// The value of `Origin` in the archive's own release files.
    fn origin(&self) -> &'static str {
        match self.family {
            Family::Debian => "Debian",
            Family::Ubuntu => "Ubuntu",
        }
    }

    /// The keys that sign the archive, where the distribution's keyring package puts them.
    pub(crate) fn keyring(&self) -> &'static Path {
        Path::new(match self.family {
            Family::Debian => "/usr/share/keyrings/debian-archive-keyring.gpg",
            Family::Ubuntu => "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        })
    }

    pub(crate) fn components(&self) -> &'static [&'static str] {
        match self.family {
            Family::Debian => &["main"],
            Family::Ubuntu => &["main", "universe"],
        }
    }
}

/// apt on this host. Package lists are refreshed at most once, and only when something fails.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    refreshed: Cell<bool>,
}

impl Apt {
    /// The packages that `package` depends on.
    pub(crate) fn depends(
        &self,
        package: &str,
        progress: Listener<'_>,
    ) -> Result<Vec<String>, AptError> {
        check_name(package)?;
        let output = self.with_lists(progress, || {
            Command::new("apt-cache").args(["depends", "--important", package]).output()
        })?;
        Ok(parse_depends(&String::from_utf8_lossy(&output)))
    }

    /// Whether the archive has `package`.
    pub(crate) fn exists(&self, package: &str) -> bool {
        Command::new("apt-cache")
            .args(["show", "--no-all-versions", package])
            .output()
            .is_ok_and(|output| !output.is_empty())
    }

    /// Downloads `packages` to the new directory `into` and unpacks them over each other in
    /// `into/root`, which is returned.
    pub(crate) fn unpack(
        &self,
        packages: &[String],
        into: &Path,
        progress: Listener<'_>,
    ) -> Result<PathBuf, AptError> {
        for package in packages {
            check_name(package)?;
        }
        fs::create_dir(into)?;
        report(progress, format!("downloading {}", packages.join(", ")));
        self.with_lists(progress, || {
            // The sandbox user of apt cannot write to a directory that only root can enter.
            Command::new("apt-get")
                .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
                .args(packages)
                .current_dir(into)
                .output()
        })?;
        let root = into.join("root");
        fs::create_dir(&root)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(into)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        if files.len() < packages.len() {
            return Err(AptError::NoFile(packages.join(", ")));
        }
        report(progress, format!("unpacking {}", packages.join(", ")));
        files.sort();
        for file in files {
            Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root).output()?;
            fs::remove_file(&file)?;
        }
        Ok(root)
    }

    /// The host's sources that belong to its distribution, in the one-line format of
    /// `sources.list(5)`. Archives of third parties, backports, local files and addresses with a
    /// password are left out. Empty if nothing is left.
    pub(crate) fn sources(
        &self,
        release: &Release,
        progress: Listener<'_>,
    ) -> Result<Vec<String>, AptError> {
        let format = "$(ORIGIN)\t$(CODENAME)\t$(RELEASE)\t$(COMPONENT)\t$(REPO_URI)";
        let list = || {
            let arguments = ["indextargets", "--format", format, "Created-By: Packages"];
            Command::new("apt-get").args(arguments).output()
        };
        let mut found = parse_targets(&String::from_utf8_lossy(&list()?), release);
        if found.is_empty() {
            // The origin is known only once the lists are there.
            self.refresh(progress);
            found = parse_targets(&String::from_utf8_lossy(&list()?), release);
        }
        Ok(found)
    }

    fn with_lists(
        &self,
        progress: Listener<'_>,
        run: impl Fn() -> Result<Vec<u8>, ProcessError>,
    ) -> Result<Vec<u8>, ProcessError> {
        match run() {
            Err(ProcessError::Failed { .. }) if !self.refreshed.get() => {
                self.refresh(progress);
                run()
            }
            other => other,
        }
    }

    /// Its own failure is not ours: a broken third-party source fails the whole update, though
    /// the lists that we need may have arrived.
    fn refresh(&self, progress: Listener<'_>) {
        if !self.refreshed.replace(true) {
            report(progress, "refreshing the host's package lists");
            let _ = Command::new("apt-get").args(["-q", "update"]).output();
        }
    }
}

/// Names as in Debian Policy 5.6.1, so that none can pass for an option or a path.
fn check_name(name: &str) -> Result<(), AptError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
    if first && rest { Ok(()) } else { Err(AptError::Name(name.to_owned())) }
}

fn parse_depends(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '|']));
    let names = lines.filter_map(|line| line.strip_prefix("Depends: "));
    names.filter(|name| !name.starts_with('<')).map(str::to_owned).collect()
}

fn parse_targets(text: &str, release: &Release) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [origin, codename, suite, component, uri] = fields[..] else { continue };
        let name = release.codename.as_str();
        let kind = codename.strip_prefix(name);
        let own = origin == release.origin()
            && matches!(kind, Some("" | "-updates" | "-security"))
            && !["backports", "proposed"].iter().any(|kind| suite.contains(kind))
            && release.components().contains(&component);
        let public = (uri.starts_with("http://") || uri.starts_with("https://"))
            && !uri.contains('@')
            && !uri.contains(char::is_whitespace);
        if !own || !public {
            continue;
        }
        // Whatever the host trusts besides, the image trusts the distribution's keys only.
        let keyring = release.keyring().display();
        let source = format!("deb [signed-by={keyring}] {uri} {suite} {component}");
        if !found.contains(&source) {
            found.push(source);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_os_release() {
        let debian = Release::parse("ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        assert_eq!((debian.family, debian.codename.as_str()), (Family::Debian, "bookworm"));
        let mint = Release::parse("ID=linuxmint\nUBUNTU_CODENAME=\"noble\"\n").unwrap();
        assert_eq!((mint.family, mint.codename.as_str()), (Family::Ubuntu, "noble"));
        assert!(Release::parse("ID=fedora\n").is_err());
    }

    #[test]
    fn only_the_distributions_own_public_sources_are_taken() {
        let release = Release { family: Family::Debian, codename: "bookworm".to_owned() };
        let targets = "Debian\tbookworm\tbookworm\tmain\thttp://a.example/debian/\n\
                       Debian\tbookworm\tbookworm\tmain\thttp://a.example/debian/\n\
                       Debian\tbookworm-security\tstable-security\tmain\thttps://b.example/\n\
                       Debian\tbookworm\tbookworm\tcontrib\thttp://a.example/debian/\n\
                       Debian Backports\tbookworm-backports\tbookworm-backports\tmain\thttp://a/\n\
                       Debian\tbookworm\tbookworm\tmain\thttp://user:secret@c.example/\n\
                       Debian\tbookworm\tbookworm\tmain\tfile:/srv/mirror\n\
                       Docker\tbookworm\tbookworm\tstable\thttps://d.example/\n\
                       . nodistro\tnodistro\tnodistro\tmain\thttps://n.example/\n";
        let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        assert_eq!(
            parse_targets(targets, &release),
            [
                format!("deb {key} http://a.example/debian/ bookworm main"),
                format!("deb {key} https://b.example/ stable-security main"),
            ]
        );
    }

    #[test]
    fn dependencies_are_real_packages_and_names_are_no_options() {
        let text =
            "meta\n  Depends: linux-image-6.1.0-1-cloud-amd64\n |Depends: a\n  Depends: <b>\n";
        assert_eq!(parse_depends(text), ["linux-image-6.1.0-1-cloud-amd64", "a"]);
        assert!(check_name("linux-image-6.1+x").is_ok());
        for bad in ["", "-o", "a/b", "a b", "a=1"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
