//! Which images can be made of the distribution's packages.

use std::path::Path;

use super::{ImageError, Made, bootstrapped, busybox, tiers};
use crate::Listener;

/// An image that can be made from the distribution's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// A small Debian or Ubuntu, as the host's, with what people expect in a shell.
    Minimal,
    /// A statically linked busybox and nothing else.
    Busybox,
    /// `minimal` with systemd.
    Services,
    /// `minimal` with Node.js, npm, Python and a C compiler.
    Node,
    /// `services` with a Chromium that is driven through the DevTools protocol.
    Browser,
    /// `services` with Docker Engine.
    Docker,
    /// `services` with a desktop that is looked at through a web page.
    Computer,
}

impl Recipe {
    /// The name of the image that it makes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Busybox => "busybox",
            Self::Services => "services",
            Self::Node => "node",
            Self::Browser => "browser",
            Self::Docker => "docker",
            Self::Computer => "computer",
        }
    }

    /// Writes the image to `image`; `work` is an empty directory.
    pub(super) fn make(
        self,
        work: &Path,
        image: &Path,
        progress: Listener<'_>,
    ) -> Result<Made, ImageError> {
        let tier = match self {
            Self::Busybox => return busybox::make(work, image, progress),
            Self::Minimal => &tiers::MINIMAL,
            Self::Services => &tiers::SERVICES,
            Self::Node => &tiers::NODE,
            Self::Browser => &tiers::BROWSER,
            Self::Docker => &tiers::DOCKER,
            Self::Computer => &tiers::COMPUTER,
        };
        bootstrapped::make(work, image, (self.name(), tier), progress)
    }
}
