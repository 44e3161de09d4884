use std::process::ExitCode;

use anyhow::Result;
use api::{Image, ImageScope, client::ClientError};
use disk::image::ImageError;

use crate::{
    app::{App, DONE},
    commands::preparing,
    table::Table,
};

/// Digits of a digest that are enough for people.
const DIGEST_SHOWN: usize = 12;

/// List images
///
/// While no daemon runs here, those that were prepared on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

const NOTHING: &str = "no images yet; get one with: bhatti image pull REF, or sudo bhatti image \
                       prepare minimal";

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let asked = app.with_client(async |client| Ok(client.images().await?));
    let images = match asked {
        Err(error) if is_alone(app, &error) => prepared(app)?,
        asked => asked?,
    };
    app.printer().listing(&images, NOTHING, table)?;
    DONE
}

/// Whether nobody answers on this machine, and no other was meant.
fn is_alone(app: &App, error: &anyhow::Error) -> bool {
    let nobody = matches!(error.downcast_ref(), Some(ClientError::NotRunning { .. }));
    nobody && app.global().url.is_none()
}

/// What lies in the data directory under a name.
fn prepared(app: &App) -> Result<Vec<Image>> {
    let images = disk::image::list(app.global().data_dir());
    let images = images.map_err(|error| preparing::with_hint(error, ImageError::hint))?;
    let shown = images.iter().filter_map(|image| {
        let name = image.name()?;
        Some(preparing::shown_image(name.as_str(), image))
    });
    Ok(shown.collect())
}

fn table(images: &[Image]) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "SCOPE", "SOURCE", "DIGEST", "CREATED"]);
    for image in images {
        let digest = image.digest.chars().take(DIGEST_SHOWN).collect();
        let size = format!("{} MB", image.size_mb);
        let (name, source) = (image.name.clone(), image.source.clone());
        table.row([name, size, scope(image), source, digest, image.created_at.clone()]);
    }
    table
}

/// Why the caller may use it.
pub(super) fn scope(image: &Image) -> String {
    match (&image.scope, &image.owner) {
        (ImageScope::Shared, Some(owner)) => format!("shared by {owner}"),
        (scope, _) => scope.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::image, *};

    #[test]
    fn whose_an_image_is_can_be_seen() {
        let own = Image { name: "a".into(), scope: ImageScope::Own, ..image() };
        let owner = Some("bob".to_owned());
        let shared = Image { name: "b".into(), scope: ImageScope::Shared, owner, ..image() };
        let shown = table(&[own, shared, image()]).render();
        let columns: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split("   ").map(str::trim).filter(|part| !part.is_empty()).collect())
            .collect();
        assert_eq!(columns[1][..3], ["a", "190 MB", "own"]);
        assert_eq!(columns[2][..3], ["b", "190 MB", "shared by bob"]);
        assert_eq!(columns[3][..3], ["minimal", "190 MB", "global"]);
        assert_eq!(columns[3][4], "0123456789ab");
    }
}
