use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use api::Image;
use disk::image::{self, ImageError, Recipe};

use crate::{
    app::{App, DONE},
    commands::{
        host_tools::{self, APT_GET, DPKG_DEB, MKFS_EROFS, MMDEBSTRAP, Tool, UNSHARE},
        preparing,
    },
    human,
};

const MINIMAL_TOOLS: [Tool; 5] = [APT_GET, DPKG_DEB, MKFS_EROFS, MMDEBSTRAP, UNSHARE];
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
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let (recipe, tools): (_, &[Tool]) = match args.image {
        Which::Minimal => (Recipe::Minimal, &MINIMAL_TOOLS),
        Which::Busybox => (Recipe::Busybox, &BUSYBOX_TOOLS),
    };
    if !args.update
        && let Some(there) = existing(app, recipe)?
    {
        let more = "; a newer one comes with --update";
        let line = format!("{}{more}", line(&there, "is already there"));
        app.printer().outcome(&there, &line)?;
        return DONE;
    }
    host_tools::require(tools)?;
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
