//! Rows about an image of a registry: getting it, and the first sandboxes of it.
//!
//! Each round pulls an image that this node does not have, not even in part, and the registry says whether
//! it was asked for all of it.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    CreateSandbox, Prune, PullEvent, PullImage,
    client::{Client, ClientError},
};
use disk::image;
use fs_err as fs;
use tokio::time::Instant;

use super::{
    Bench,
    bare::Kit,
    convert::{MEGABYTE, blocking, unpack},
    layers::{LAYERS, Layers, Registry},
    rounds::timed,
    rows::Row::{self, CreatePulled, CreatePulledFirst, Pull, PullMbs, PullTarX},
};

/// What is measured of the pull itself, and of sandboxes made of it.
const PULLS: [Row; 3] = [Pull, PullMbs, PullTarX];
const CREATES: [Row; 2] = [CreatePulledFirst, CreatePulled];
/// Rounds that are forgotten. Each records a template, and takes as long as ten of others.
const WARM_UP: usize = 1;
/// What the image is called here.
const IMAGE: &str = "pulled";

impl Bench<'_> {
    /// Every row of this file that was asked for.
    pub(super) async fn pulled(&mut self, n: usize) -> Result<()> {
        let rows = [&PULLS[..], &CREATES].concat();
        if !self.samples.want(&rows) {
            return Ok(());
        }
        let kit = self.kit().await?;
        let name = self.request.image.clone().unwrap_or_default();
        self.say(&format!("pull: the files of {name} as {LAYERS} layers"));
        let place = self.daemon.data().join("layers");
        let of = image::open(self.user_data, &name).context("open the image")?;
        let layers = blocking({
            let place = place.clone();
            move || Layers::of(&of.files()[0], &place)
        });
        let layers = layers.await?;
        let registry = Registry::serve(&layers).await?;
        self.announce(&rows, n, WARM_UP);
        for round in 0..n + WARM_UP {
            self.samples.warming_up = round < WARM_UP;
            let reference = registry.publish(&format!("r{round}"));
            self.pull_round(&layers, &reference, &place.join("into")).await?;
            let asked = registry.layers_asked_for();
            ensure!(asked == LAYERS, "{asked} layers of {LAYERS} were pulled");
            if self.samples.want(&CREATES) {
                self.create_pulled_round(&kit).await?;
            }
            self.client.image_delete(IMAGE).await?;
            // What stands ready of it needs it.
            self.settle(&self.request.clone()).await?;
            self.client.prune(&Prune::default()).await?;
        }
        blocking(move || Ok(base::files::remove_any(&place)?)).await
    }

    async fn pull_round(&mut self, layers: &Layers, reference: &str, into: &Path) -> Result<()> {
        let (archives, into) = (layers.archives.clone(), into.to_owned());
        let rate = |seconds: f64| layers.bytes as f64 / MEGABYTE / seconds;
        let seconds = blocking(move || {
            fs::create_dir(&into)?;
            let start = Instant::now();
            archives.iter().try_for_each(|archive| unpack(archive, &into))?;
            let seconds = start.elapsed().as_secs_f64();
            base::files::remove_any(&into)?;
            Ok(seconds)
        });
        self.samples.add(PullTarX, rate(seconds.await?));
        let (time, ()) = timed(pull(&mut self.client, reference)).await?;
        self.samples.add_time(Pull, time);
        self.samples.add(PullMbs, rate(time.as_secs_f64()));
        Ok(())
    }

    async fn create_pulled_round(&mut self, kit: &Kit) -> Result<()> {
        let of_it = CreateSandbox { image: Some(IMAGE.to_owned()), ..self.request.clone() };
        self.create_beside(kit).await?;
        let first = self.create_once(&of_it).await?;
        self.samples.add_time(CreatePulledFirst, first);
        self.settle(&of_it).await?;
        let later = self.create_once(&of_it).await?;
        self.samples.add_time(CreatePulled, later);
        Ok(())
    }
}

async fn pull(client: &mut Client, reference: &str) -> Result<()> {
    let (reference, name) = (reference.to_owned(), Some(IMAGE.to_owned()));
    let request = PullImage { reference, name, ..PullImage::default() };
    let mut events = client.image_pull(&request).await.context("pull")?;
    while let Some(event) = events.next().await? {
        match event {
            PullEvent::Result { .. } => return Ok(()),
            PullEvent::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            _ => {}
        }
    }
    bail!("the daemon said nothing of how the pull ended")
}
