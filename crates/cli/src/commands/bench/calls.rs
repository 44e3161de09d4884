//! Rows that are one call, or many at once, on a sandbox that runs: commands and small files.

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    ExecRequest, StreamEvent,
    client::{Client, FilePart},
};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

use super::{
    Bench,
    bare::{BareVm, Kit},
    rounds::{WARM_UP_CALLS, WARM_UP_VMS, exec_true, timed},
    rows::Row::{
        self, Exec20, Exec100, FirstByte, GuestForkExec, Read1k, Read100k, Write1k, Write100k,
    },
};

/// Rows of commands that are compared with a fork and exec of the guest.
pub(super) const COMMANDS: [Row; 3] = [Exec20, Exec100, FirstByte];
/// Rows of small files, with the size of each.
const FILES: [(Row, Row, usize); 2] =
    [(Read1k, Write1k, 1 << 10), (Read100k, Write100k, 100 << 10)];
/// Where small files are: on the sandbox's disk.
const DIRECTORY: &str = "/var/tmp";
/// Commands at once, of the rows that say so.
const CROWDS: [(Row, usize); 2] = [(Exec20, 20), (Exec100, 100)];

impl Bench<'_> {
    /// [`COMMANDS`], each round directly after one of the floor.
    pub(super) async fn commands(&mut self, kit: &Kit, n: usize, n_at_once: usize) -> Result<()> {
        if !self.samples.want(&COMMANDS) {
            return Ok(());
        }
        let vm = kit.launch(kit.plan()?).await?;
        vm.hello().await?;
        let id = self.create().await?.id;
        if self.samples.want(&[FirstByte]) {
            self.announce(&[FirstByte], n, WARM_UP_CALLS);
            for round in 0..n + WARM_UP_CALLS {
                self.samples.warming_up = round < WARM_UP_CALLS;
                self.samples.add_time(GuestForkExec, vm.time_spawn().await?);
                let time = first_byte(&mut self.client, &id).await?;
                self.samples.add_time(FirstByte, time);
            }
        }
        for (row, crowd) in CROWDS {
            if self.samples.want(&[row]) {
                self.crowd(&vm, &id, row, crowd, n_at_once).await?;
            }
        }
        self.client.destroy(&id).await?;
        vm.end().await
    }

    /// As many commands at once as connections, until the last answer.
    async fn crowd(
        &mut self,
        vm: &BareVm,
        id: &str,
        row: Row,
        crowd: usize,
        n: usize,
    ) -> Result<()> {
        self.announce(&[row], n, WARM_UP_VMS);
        let mut clients = self.connections(crowd).await?;
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            self.samples.add_time(GuestForkExec, vm.time_spawn().await?);
            let time = all_at_once(&mut clients, id).await?;
            self.samples.add_time(row, time);
        }
        Ok(())
    }

    /// So many open connections.
    pub(super) async fn connections(&self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = self.daemon.client()?;
            client.health().await?;
            clients.push(client);
        }
        Ok(clients)
    }

    /// Small files, written and read through the API.
    pub(super) async fn files(&mut self, n: usize) -> Result<()> {
        let rows = FILES.map(|(read, write, _)| [read, write]).concat();
        if !self.samples.want(&rows) {
            return Ok(());
        }
        self.announce(&rows, n, WARM_UP_CALLS);
        let id = self.create().await?.id;
        for round in 0..n + WARM_UP_CALLS {
            self.samples.warming_up = round < WARM_UP_CALLS;
            for (read_row, write_row, size) in FILES {
                let path = format!("{DIRECTORY}/bench-{size}");
                let content = std::io::Cursor::new(vec![b'x'; size]);
                let (time, written) =
                    timed(self.client.file_write(&id, &path, None, content)).await?;
                ensure!(written.size == size as u64, "{} bytes were written", written.size);
                self.samples.add_time(write_row, time);
                let (time, got) = timed(read(&mut self.client, &id, &path)).await?;
                ensure!(got == size, "{got} bytes of {size} were read");
                self.samples.add_time(read_row, time);
            }
        }
        self.client.destroy(&id).await?;
        Ok(())
    }
}

/// How long it takes until `true` has been run on every connection, on all at the same time.
pub(super) async fn all_at_once(clients: &mut Vec<Client>, id: &str) -> Result<Duration> {
    let start = Instant::now();
    let mut commands = JoinSet::new();
    for mut client in clients.drain(..) {
        let id = id.to_owned();
        commands.spawn(async move { exec_true(&mut client, &id).await.map(|()| client) });
    }
    let done: Result<Vec<Client>> = commands.join_all().await.into_iter().collect();
    let time = start.elapsed();
    *clients = done?;
    Ok(time)
}

/// Until a streamed command's first output is here; its end is awaited too, but not counted.
async fn first_byte(client: &mut Client, id: &str) -> Result<Duration> {
    let cmd = vec!["echo".to_owned(), "hello".to_owned()];
    let request = ExecRequest { cmd, ..ExecRequest::default() };
    let start = Instant::now();
    let mut events = client.exec_stream(id, &request).await.context("run echo")?;
    let mut first = None;
    while let Some(event) = events.next().await? {
        match event {
            StreamEvent::Stdout(_) => first = first.or_else(|| Some(start.elapsed())),
            StreamEvent::Exit { exit_code, .. } if exit_code != 0 => {
                bail!("echo ended with {exit_code}")
            }
            StreamEvent::Error(error) => bail!("run echo: {}", error.error),
            _ => {}
        }
    }
    first.context("echo said nothing")
}

/// How many bytes a whole file has.
pub(super) async fn read(client: &mut Client, id: &str, path: &str) -> Result<usize> {
    let mut content = client.file_read(id, path, FilePart::default()).await?;
    let mut size = 0;
    while let Some(chunk) = content.chunk().await? {
        size += chunk.len();
    }
    Ok(size)
}
