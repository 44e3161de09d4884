//! A container in a sandbox: `docker run` in the tier that has Docker.

use anyhow::{Context as _, Result, ensure};
use api::{CreateSandbox, ExecRequest};
use disk::image;
use tokio::time::Duration;

use super::{
    Bench,
    rounds::timed,
    rows::Row::{DockerChroot, DockerRun},
};

/// The image of the tier, and the memory in MB that it wants.
pub(super) const IMAGE: &str = "docker";
const MEMORY_MB: u64 = 4096;
/// Where the container's files are.
const TREE: &str = "/var/tmp/hello";
/// Rounds that are forgotten: the first run starts what later ones find running.
const WARM_UP: usize = 2;
/// How long anything in there may take where the processor is emulated.
const PATIENCE: u64 = 300;

impl Bench<'_> {
    /// `docker run` of a program that says hello, beside the same program in the same files by `chroot`.
    pub(super) async fn docker(&mut self, n: usize) -> Result<()> {
        let rows = [DockerRun, DockerChroot];
        if !self.samples.want(&rows) {
            return Ok(());
        }
        if image::open(self.user_data, IMAGE).is_err() {
            self.say(&format!(
                "docker_run: SKIPPED, there is no image {IMAGE}; prepare it: bhatti image prepare \
                 {IMAGE}"
            ));
            return Ok(());
        }
        self.announce(&rows, n, WARM_UP);
        let request = CreateSandbox {
            image: Some(IMAGE.to_owned()),
            memory_mb: Some(MEMORY_MB),
            ..self.request.clone()
        };
        let id = self.client.create(&request, |_| {}).await?.sandbox.id;
        // A program and the libraries that it needs, of the guest's own.
        self.root(
            &id,
            &format!(
                "mkdir -p {TREE} && for file in /bin/echo $(ldd /bin/echo | grep -o '/[^ ]*'); do \
                 cp -L --parents $file {TREE}; done && tar -C {TREE} -c . | docker import - hello"
            ),
        )
        .await?;
        for round in 0..n + WARM_UP {
            self.samples.warming_up = round < WARM_UP;
            let time = self.hello(&id, &format!("chroot {TREE} /bin/echo hello")).await?;
            self.samples.add_time(DockerChroot, time);
            let time = self.hello(&id, "docker run --rm hello /bin/echo hello").await?;
            self.samples.add_time(DockerRun, time);
        }
        self.client.destroy(&id).await?;
        Ok(())
    }

    async fn hello(&mut self, id: &str, command: &str) -> Result<Duration> {
        let (time, said) = timed(self.root(id, command)).await?;
        ensure!(said == "hello\n", "{command} said {said:?}");
        Ok(time)
    }

    /// What a command of the guest's root prints.
    async fn root(&mut self, id: &str, command: &str) -> Result<String> {
        let request = ExecRequest {
            cmd: ["sh", "-c", command].map(str::to_owned).to_vec(),
            user: Some("root".to_owned()),
            timeout_sec: Some(PATIENCE),
            ..ExecRequest::default()
        };
        let answer = self.client.exec(id, &request).await.with_context(|| command.to_owned())?;
        ensure!(
            answer.exit_code == 0,
            "{command} ended with {}: {}",
            answer.exit_code,
            answer.stderr
        );
        Ok(answer.stdout)
    }
}
