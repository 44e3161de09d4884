//! Preparing what sandboxes are made of: on this machine, with progress, without the daemon.

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{app::App, failure::hinted, progress};

/// Permission bits of a new data directory: others may pass through, as the daemon has it too.
const DIRECTORY_MODE: u32 = 0o711;
const MIB: u64 = 1 << 20;

/// Does `work` in a thread, shows its steps, and says what to do if it fails.
pub(crate) fn run<T: Send + 'static, E: std::error::Error + Send + Sync + 'static>(
    app: &App,
    hint: impl FnOnce(&E) -> Option<String>,
    work: impl FnOnce(&Path, disk::Listener<'_>) -> Result<T, E> + Send + 'static,
) -> Result<T> {
    let data = data_dir(app)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("start the async runtime")?;
    let (tell, steps) = progress::steps();
    let work = async {
        let tell = move |now: disk::Progress| {
            tell.send_replace(now.step);
        };
        tokio::task::spawn_blocking(move || work(&data, &tell)).await
    };
    let done = runtime.block_on(progress::show(app.printer(), steps, work));
    done.context("wait for the preparation")?.map_err(|error| with_hint(error, hint))
}

/// The error with its hint, if it has one.
pub(crate) fn with_hint<E: std::error::Error + Send + Sync + 'static>(
    error: E,
    hint: impl FnOnce(&E) -> Option<String>,
) -> anyhow::Error {
    match hint(&error) {
        Some(hint) => hinted(base::chain(&error), hint),
        None => anyhow::Error::new(error),
    }
}

/// The data directory, which is made if it is not there.
fn data_dir(app: &App) -> Result<PathBuf> {
    let data = std::path::absolute(app.global().data_dir()).context("find the data directory")?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&data);
    match made {
        Ok(()) => Ok(data),
        Err(error) => Err(hinted(
            format!("make the data directory {}: {error}", data.display()),
            "run it with sudo, or choose another directory with --data-dir",
        )),
    }
}

/// An image that lies in the data directory, as the daemon shows one that all may use.
pub(crate) fn shown_image(name: &str, image: &disk::image::Image) -> api::Image {
    api::Image {
        name: name.to_owned(),
        digest: image.digest().to_owned(),
        size_mb: megabytes(image.size()),
        source: image.source().to_owned(),
        created_at: time(image.created_at()),
        scope: api::ImageScope::Global,
        owner: None,
        reference: None,
    }
}

/// A size as all commands show it.
pub(crate) fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

/// A time as the daemon shows it.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
