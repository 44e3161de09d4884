//! The tiers: what each of the images that are bootstrapped has besides the distribution's
//! essential packages.
//!
//! A tier is data: packages, files that are put in, links that enable services. What it takes to
//! make an image of it is the same for all of them, see [`bootstrapped`](super::bootstrapped).

mod browser;
mod computer;
mod docker;

/// What is in an image besides the distribution's essential packages, apt and what they need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tier {
    /// Besides those of [`COMMON`].
    pub(super) packages: &'static [&'static str],
    /// Packages of the npm registry, installed for all users of the image; with their version.
    pub(super) npm: &'static [&'static str],
    /// Path, content and mode.
    pub(super) files: &'static [(&'static str, &'static str, u32)],
    /// Path and target.
    pub(super) links: &'static [(&'static str, &'static str)],
}

/// What people expect in a shell.
pub(super) const COMMON: [&str; 13] = [
    "bash",
    "ca-certificates",
    "coreutils",
    "curl",
    "git",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "nano",
    "procps",
    "sudo",
    "tzdata",
];

pub(super) const MINIMAL: Tier = Tier { packages: &[], npm: &[], files: &[], links: &[] };

/// systemd, which the agent runs beside itself.
pub(super) const SERVICES: Tier =
    Tier { packages: &["dbus", "systemd", "systemd-sysv"], ..MINIMAL };

pub(super) const NODE: Tier =
    Tier { packages: &["build-essential", "nodejs", "npm", "python3"], ..MINIMAL };

pub(super) const DOCKER: Tier = Tier {
    packages: &["dbus", "docker.io", "iptables", "systemd", "systemd-sysv"],
    files: &docker::FILES,
    ..MINIMAL
};

pub(super) const BROWSER: Tier = Tier {
    packages: &[
        "chromium-headless-shell",
        "dbus",
        "fonts-liberation",
        "fonts-noto-cjk",
        "fonts-noto-color-emoji",
        "nodejs",
        "systemd",
        "systemd-sysv",
    ],
    // The last that runs on the Node.js of Debian 12.
    npm: &["playwright-core@1.58"],
    files: &browser::FILES,
    links: &browser::LINKS,
};

pub(super) const COMPUTER: Tier = Tier {
    packages: &[
        "chromium",
        "dbus",
        "dbus-x11",
        "fonts-liberation",
        "novnc",
        "openbox",
        "pcmanfm",
        "scrot",
        "systemd",
        "systemd-sysv",
        "tigervnc-standalone-server",
        "tint2",
        "websockify",
        "wmctrl",
        "x11-xserver-utils",
        "xclip",
        "xdotool",
        "xterm",
    ],
    files: &computer::FILES,
    links: &computer::LINKS,
    ..MINIMAL
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enabled_is_there() {
        for tier in [MINIMAL, SERVICES, NODE, DOCKER, BROWSER, COMPUTER] {
            for (path, target) in tier.links {
                assert!(!path.starts_with('/'), "{path}");
                let target = target.trim_start_matches('/');
                assert!(tier.files.iter().any(|file| file.0 == target), "{target}");
            }
            for (path, content, _) in tier.files {
                assert!(!path.starts_with('/') && content.ends_with('\n'), "{path}");
            }
            assert!(tier.links.is_empty() || tier.packages.contains(&"systemd"));
        }
    }
}
