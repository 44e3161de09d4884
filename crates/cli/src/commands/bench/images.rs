//! Rows about images that are made here: of what a sandbox has on its disk, and of a Dockerfile.

use std::io::Cursor;

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    BuildEvent, BuildImage, BuiltImage, ExecRequest, Prune,
    client::{Client, ClientError},
};
use fs_err as fs;

use super::{
    Bench,
    bare::Kit,
    convert::blocking,
    copies::{DIRT, MIB, Noise},
    rounds::{WARM_UP_VMS, timed},
    rows::Row::{Build, BuildCached, Disk10m, ImageSave},
};

/// How much of its disk a sandbox that is saved has changed, MB.
const CHANGED: u64 = 10;
/// Where it has that.
const FILE: &str = "/var/tmp/changed";
/// What the images are called.
const SAVED: &str = "saved";
const BUILT: &str = "built";
/// What the Dockerfile says after its first line.
const STEPS: [&str; 7] = [
    "ENV WHERE=/srv",
    "WORKDIR /srv",
    "COPY data data",
    "RUN cp data copy",
    "RUN echo two > two",
    "RUN cat copy two > three",
    "CMD [\"true\"]",
];
/// How large the file is that it copies, bytes.
const COPIED: usize = 1 << 20;
/// Builds that are forgotten. Each starts several VMs.
const WARM_UP_BUILDS: usize = 1;

impl Bench<'_> {
    /// Images of what sandboxes that run have on their disks.
    pub(super) async fn saves(&mut self, n: usize) -> Result<()> {
        if !self.samples.want(&[ImageSave, Disk10m]) {
            return Ok(());
        }
        self.announce(&[ImageSave], n, WARM_UP_VMS);
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            self.save_round().await?;
        }
        self.client.prune(&Prune::default()).await?;
        Ok(())
    }

    async fn save_round(&mut self) -> Result<()> {
        let id = self.create().await?.id;
        let noise = Noise::new(CHANGED * MIB);
        self.client.file_write(&id, DIRT, None, noise).await.context("fill memory")?;
        // What is written by a command is not flushed by anybody before the save.
        let copy = ["cp", DIRT, FILE].map(str::to_owned).to_vec();
        let request = ExecRequest { cmd: copy, ..ExecRequest::default() };
        let answer = self.client.exec(&id, &request).await.context("change the disk")?;
        ensure!(answer.exit_code == 0, "cp ended with {}: {}", answer.exit_code, answer.stderr);
        let file = self.daemon.data().join("changed");
        let written = blocking(move || {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut Noise::new(CHANGED * MIB), &mut content)?;
            let start = tokio::time::Instant::now();
            let mut to = fs::File::create(&file)?;
            std::io::Write::write_all(&mut to, &content)?;
            to.sync_all()?;
            let time = start.elapsed();
            fs::remove_file(file)?;
            Ok(time)
        });
        self.samples.add_time(Disk10m, written.await?);
        let (time, _) = timed(self.client.save_image(&id, SAVED)).await?;
        self.samples.add_time(ImageSave, time);
        self.client.image_delete(SAVED).await?;
        self.client.destroy(&id).await?;
        Ok(())
    }

    /// A Dockerfile of seven steps, none of which was done before, and all of which were.
    pub(super) async fn builds(&mut self, n: usize) -> Result<()> {
        if !self.samples.want(&[Build, BuildCached]) {
            return Ok(());
        }
        let kit = self.kit().await?;
        self.announce(&[Build, BuildCached], n, WARM_UP_BUILDS);
        for round in 0..n + WARM_UP_BUILDS {
            self.samples.warming_up = round < WARM_UP_BUILDS;
            self.build_round(&kit).await?;
        }
        self.client.prune(&Prune::default()).await?;
        Ok(())
    }

    async fn build_round(&mut self, kit: &Kit) -> Result<()> {
        let from = format!("FROM {}\n", self.request.image.clone().unwrap_or_default());
        let request = BuildImage {
            name: BUILT.to_owned(),
            dockerfile: from + &STEPS.join("\n"),
            no_cache: true,
            cpus: Some(1),
            memory_mb: self.request.memory_mb,
            ..BuildImage::default()
        };
        self.floor(kit).await?;
        let (time, built) = timed(build(&mut self.client, &request)).await?;
        ensure!(built.cached == 0, "{} steps were cached", built.cached);
        self.samples.add_time(Build, time);
        let request = BuildImage { no_cache: false, ..request };
        let (time, built) = timed(build(&mut self.client, &request)).await?;
        ensure!(built.cached == built.steps, "{} steps were cached", built.cached);
        self.samples.add_time(BuildCached, time);
        self.client.image_delete(BUILT).await?;
        Ok(())
    }
}

async fn build(client: &mut Client, request: &BuildImage) -> Result<BuiltImage> {
    let mut events = client.image_build(request, Cursor::new(context()?)).await.context("build")?;
    while let Some(event) = events.next().await? {
        match event {
            BuildEvent::Result(image) => return Ok(image),
            BuildEvent::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            _ => {}
        }
    }
    bail!("the daemon said nothing of how the build ended")
}

/// The files that the Dockerfile copies, as an archive.
fn context() -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(COPIED as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "data", &vec![b'x'; COPIED][..])?;
    Ok(archive.into_inner()?)
}
