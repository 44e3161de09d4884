//! Rows about images from elsewhere: how fast an archive becomes a root file system, beside `tar`
//! unpacking the same archive.
//!
//! The archive has the files of the image that the sandboxes are made of, and is in the page cache.
//! A sample adds it as a layer and makes an image of that, both flushed to the disk, in one thread;
//! `tar`, which flushes nothing, has a second process for gzip. Rates count unpacked bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base::process::Command;
use disk::{
    image::{self, Config},
    layer::{self, Limits},
};
use fs_err as fs;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    Bench,
    rows::Row::{Convert, ConvertPlain, TarX},
};

pub(super) const MEGABYTE: f64 = 1e6;

impl Bench<'_> {
    /// What is converted, and what `tar` does meanwhile.
    pub(super) async fn convert(&mut self, n: usize) -> Result<()> {
        if !self.samples.want(&[Convert, ConvertPlain, TarX]) {
            return Ok(());
        }
        let name = self.request.image.clone().unwrap_or_default();
        self.say(&format!("convert: {n} samples, the files of {name} as an archive"));
        let place = self.daemon.data().join("convert");
        let of = image::open(self.user_data, &name).context("open the image")?;
        let archives = blocking({
            let place = place.clone();
            move || Archives::of(&of.files()[0], &place)
        });
        let archives = archives.await?;
        let bytes = fs::metadata(&archives.plain)?.len();
        self.samples.warming_up = false;
        for _ in 0..n {
            for row in [TarX, Convert, ConvertPlain] {
                let archive = if row == ConvertPlain { &archives.plain } else { &archives.gzip };
                let (archive, into) = (archive.clone(), place.join("into"));
                let seconds = blocking(move || {
                    fs::create_dir(&into)?;
                    let start = Instant::now();
                    match row {
                        TarX => unpack(&archive, &into)?,
                        _ => convert(&archive, &into)?,
                    }
                    let seconds = start.elapsed().as_secs_f64();
                    base::files::remove_any(&into)?;
                    Ok(seconds)
                });
                let rate = bytes as f64 / MEGABYTE / seconds.await?;
                self.samples.add(row, rate);
            }
        }
        blocking(move || Ok(base::files::remove_any(&place)?)).await
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.context("measure conversions")?
}

/// The same archive twice.
struct Archives {
    plain: PathBuf,
    gzip: PathBuf,
}

impl Archives {
    fn of(image: &Path, place: &Path) -> Result<Self> {
        let tree = place.join("tree");
        fs::create_dir(place)?;
        let extract = format!("--extract={}", tree.display());
        Command::new("fsck.erofs").arg(extract).arg(image).output().context("extract the image")?;
        let plain = place.join("archive.tar");
        Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&plain).arg(".").output()?;
        base::files::remove_any(&tree)?;
        Command::new("gzip").arg("--keep").arg(&plain).output()?;
        Ok(Self { gzip: place.join("archive.tar.gz"), plain })
    }
}

pub(super) fn unpack(archive: &Path, into: &Path) -> Result<()> {
    Command::new("tar").arg("-C").arg(into).arg("-xf").arg(archive).output()?;
    Ok(())
}

fn convert(archive: &Path, into: &Path) -> Result<()> {
    let id = layer::add(into, &mut fs::File::open(archive)?, None, &Limits::default())?;
    let image = image::assemble(into, &[id], Config::default(), "bench".to_owned())?;
    ensure!(image.files().len() == 2, "the image has no files");
    Ok(())
}
