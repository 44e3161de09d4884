use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use api::Image;
use disk::image::{self, ImageError, Recipe};

use crate::{
    app::{App, DONE},
    commands::{
        host_tools::{self, APT_GET, DPKG_DEB, MKFS_EROFS, MMDEBSTRAP, NPM, Tool, UNSHARE},
        preparing,
    },
    human,
};

const BOOTSTRAP_TOOLS: [Tool; 5] = [APT_GET, DPKG_DEB, MKFS_EROFS, MMDEBSTRAP, UNSHARE];
const BROWSER_TOOLS: [Tool; 6] = [APT_GET, DPKG_DEB, MKFS_EROFS, MMDEBSTRAP, NPM, UNSHARE];
const BUSYBOX_TOOLS: [Tool; 3] = [APT_GET, DPKG_DEB, MKFS_EROFS];

/// Make an image of the distribution's packages
///
/// One that is there already stays, unless --update is given. Sandboxes keep the image that they
/// were made of.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which one
    #[arg(value_enum, value_name = "IMAGE")]
    image: Which,
    /// Make it anew, with the newest packages, even if it is there already
    #[arg(long)]
    update: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Which {
    /// The host's own distribution, small, with what people expect in a shell
    Minimal,
    /// A statically linked busybox and nothing else
    Busybox,
    /// As minimal, with systemd: systemctl, journalctl, timers, D-Bus
    Services,
    /// As minimal, with Node.js, npm, Python and a C compiler
    Node,
    /// As services, with a headless Chromium on port 9222 (DevTools protocol) and playwright-core
    Browser,
    /// As services, with Docker Engine
    Docker,
    /// As services, with a desktop as a web page on port 6080, and the command screenshot
    Computer,
}

impl Which {
    fn recipe(self) -> Recipe {
        match self {
            Self::Minimal => Recipe::Minimal,
            Self::Busybox => Recipe::Busybox,
            Self::Services => Recipe::Services,
            Self::Node => Recipe::Node,
            Self::Browser => Recipe::Browser,
            Self::Docker => Recipe::Docker,
            Self::Computer => Recipe::Computer,
        }
    }

    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Busybox => &BUSYBOX_TOOLS,
            Self::Browser => &BROWSER_TOOLS,
            Self::Minimal | Self::Services | Self::Node | Self::Docker | Self::Computer => {
                &BOOTSTRAP_TOOLS
            }
        }
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let recipe = args.image.recipe();
    if !args.update
        && let Some(there) = existing(app, recipe)?
    {
        let more = "; a newer one comes with --update";
        let line = format!("{}{more}", line(&there, "is already there"));
        app.printer().outcome(&there, &line)?;
        return DONE;
    }
    host_tools::require(args.image.tools())?;
    let made = preparing::run(app, ImageError::hint, move |data, progress| {
        image::prepare(data, recipe, progress)
    })?;
    let made = shown(recipe, &made);
    let line = format!("{} in {}", line(&made, "ready"), human::duration(start.elapsed()));
    app.printer().outcome(&made, &line)?;
    DONE
}

fn existing(app: &App, recipe: Recipe) -> Result<Option<Image>> {
    match image::open(app.global().data_dir(), recipe.name()) {
        Ok(image) => Ok(Some(shown(recipe, &image))),
        Err(ImageError::Unknown { .. }) => Ok(None),
        Err(error) => Err(preparing::with_hint(error, ImageError::hint)),
    }
}

fn shown(recipe: Recipe, image: &image::Image) -> Image {
    preparing::shown_image(recipe.name(), image)
}

fn line(image: &Image, state: &str) -> String {
    let Image { name, size_mb, source, .. } = image;
    format!("image/{name} {state} ({source}, {size_mb} MB)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn the_line_says_which_image_it_is() {
        let image = super::super::image();
        let expected = "image/minimal ready (Debian bookworm, bootstrapped, 190 MB)";
        assert_eq!(line(&image, "ready"), expected);
    }

    #[test]
    fn only_known_images_can_be_asked_for() {
        assert!(try_args("image prepare minimal --update").is_ok());
        assert!(try_args("image prepare busybox").is_ok());
        assert!(try_args("image prepare windows").is_err());
        assert!(try_args("image prepare").is_err());
    }
}
