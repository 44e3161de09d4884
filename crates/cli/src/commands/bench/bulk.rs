//! Rows that are a rate: large files through the API, beside what the guest's port itself carries.
//!
//! The files are in the guest's memory, in `/dev/shm`, so that the way is measured and not the
//! disk. For the ceiling a program of the guest takes over the descriptor of the agent's other
//! port, `bhatti.notice`, which a port's rule of one opener would otherwise keep from it, and has
//! `cat` write to it; the host reads the monitor's socket. Nothing of ours is in between.

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    ErrorCode, ExecRequest,
    client::{Client, ClientError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, ReadBuf},
    net::UnixStream,
    time::{Duration, Instant, timeout},
};

use super::{
    Bench,
    calls::read,
    rows::Row::{self, CatBulk, ReadBulk, WriteBulk},
};

/// The file that is sent again and again; small enough for two of them in a sandbox of 512 MB.
const FILE_BYTES: usize = 96 << 20;
const FILE: &str = "/dev/shm/bulk";
/// Where a sample ends, whichever comes first.
const MOST_BYTES: usize = 1 << 30;
const MOST_TIME: Duration = Duration::from_secs(20);
/// Bytes that are read at once from the port.
const PIECE: usize = 1 << 20;
const MEGABYTE: f64 = 1e6;

/// Borrows from process 1 the descriptor of the port named `bhatti.notice`, and has `cat` write the
/// file to it, as often as told. Waits for writes, which the agent itself does not: that is a
/// property of the open file and is put back.
const CAT: &str = r#"
use strict; use Fcntl;
my ($file, $times) = @ARGV;
my $device;
for my $name (glob "/sys/class/virtio-ports/*/name") {
    open(my $in, "<", $name) or next;
    chomp(my $line = <$in>);
    $device = "/dev/$1" if $line eq "bhatti.notice" && $name =~ m{([^/]+)/name$};
}
die "there is no notice port\n" unless $device;
my ($number) = grep { (readlink("/proc/1/fd/$_") // "") eq $device }
    map { m{(\d+)$} } glob "/proc/1/fd/*";
die "process 1 does not hold $device\n" unless defined $number;
my $agent = syscall(434, 1, 0);
die "pidfd_open: $!\n" if $agent < 0;
my $fd = syscall(438, $agent, $number + 0, 0);
die "pidfd_getfd: $!\n" if $fd < 0;
open(my $port, ">&=", $fd) or die "take the descriptor: $!\n";
my $flags = fcntl($port, F_GETFL, 0);
fcntl($port, F_SETFL, $flags & ~O_NONBLOCK) or die "set flags: $!\n";
my $child = fork() // die "fork: $!\n";
if (!$child) { open(STDOUT, ">&", $port) or die; exec("cat", ($file) x $times) or die; }
waitpid($child, 0);
my $status = $?;
fcntl($port, F_SETFL, $flags + 0);
die "cat ended with $status\n" if $status;
"#;

impl Bench<'_> {
    /// What can be carried, and what is.
    pub(super) async fn bulk(&mut self, n: usize) -> Result<()> {
        if !self.samples.want(&[CatBulk, ReadBulk, WriteBulk]) {
            return Ok(());
        }
        self.announce(&[CatBulk, ReadBulk, WriteBulk], n, 0);
        self.samples.warming_up = false;
        let id = self.create().await?.id;
        let size = write(&mut self.client, &id).await?;
        ensure!(size == FILE_BYTES, "{size} bytes were written");
        let has_perl = self.has_perl(&id).await?;
        if !has_perl {
            self.say("cat_bulk: left out, because the image has no perl");
        }
        for _ in 0..n {
            if has_perl && self.samples.want(&[CatBulk]) {
                let rate = self.cat(&id).await.context("carry bytes on a bare port")?;
                self.samples.add(CatBulk, rate);
            }
            for row in [ReadBulk, WriteBulk] {
                if self.samples.want(&[row]) {
                    let rate = repeated(&mut self.client, &id, row).await?;
                    self.samples.add(row, rate);
                }
            }
        }
        self.client.destroy(&id).await?;
        Ok(())
    }

    async fn has_perl(&mut self, id: &str) -> Result<bool> {
        let cmd = ["perl", "-e", "1"].map(str::to_owned).to_vec();
        match self.client.exec(id, &ExecRequest { cmd, ..ExecRequest::default() }).await {
            Ok(answer) => Ok(answer.exit_code == 0),
            Err(ClientError::Api(error)) if error.code == ErrorCode::CommandNotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// MB/s of a plain `cat` on the bare port.
    async fn cat(&mut self, id: &str) -> Result<f64> {
        let socket = self.daemon.data().join("run").join(id).join("notice.sock");
        let stream = UnixStream::connect(&socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let times = MOST_BYTES / FILE_BYTES;
        let command = ["perl", "-e", CAT, FILE, &times.to_string()].map(str::to_owned);
        let request = ExecRequest {
            cmd: command.to_vec(),
            user: Some("root".to_owned()),
            ..ExecRequest::default()
        };
        let mut client = self.daemon.client()?;
        let run = async {
            let answer = client.exec(id, &request).await.context("run perl in the sandbox")?;
            ensure!(answer.exit_code == 0, "perl: {}", answer.stderr.trim());
            anyhow::Ok(())
        };
        let mut drained = Drained::default();
        let drain = drained.drain(stream, times * FILE_BYTES);
        // Perl is waited for, because it puts things back. If the time is up it is killed with the
        // request and does not, so this sandbox is then good for nothing but more of the same.
        let both = async { tokio::try_join!(drain, run).map(drop) };
        timeout(MOST_TIME, both).await.unwrap_or(Ok(()))?;
        drained.rate().context("nothing came")
    }
}

/// What came through the port so far.
#[derive(Debug, Default)]
struct Drained {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Bytes after those of the first read.
    bytes: usize,
}

impl Drained {
    async fn drain(&mut self, mut from: impl AsyncRead + Unpin, total: usize) -> Result<()> {
        let (mut piece, mut got) = (vec![0; PIECE], 0);
        while got < total {
            let count = from.read(&mut piece).await?;
            ensure!(count > 0, "the port was closed after {got} bytes");
            got += count;
            let now = Instant::now();
            if self.first.is_none() {
                self.first = Some(now);
            } else {
                self.bytes += count;
                self.last = Some(now);
            }
        }
        Ok(())
    }

    /// MB/s; `None` if too little came to say.
    fn rate(&self) -> Option<f64> {
        Some(rate(self.bytes, self.last?.duration_since(self.first?)))
    }
}

/// MB/s of whole files, one after the other.
async fn repeated(client: &mut Client, id: &str, row: Row) -> Result<f64> {
    let (start, mut moved) = (Instant::now(), 0);
    while moved + FILE_BYTES <= MOST_BYTES && start.elapsed() < MOST_TIME {
        let size = match row {
            ReadBulk => read(client, id, FILE).await?,
            WriteBulk => write(client, id).await?,
            other => bail!("{} is no transfer", other.name()),
        };
        ensure!(size == FILE_BYTES, "{size} bytes of {FILE_BYTES} were moved");
        moved += size;
    }
    Ok(rate(moved, start.elapsed()))
}

async fn write(client: &mut Client, id: &str) -> Result<usize> {
    let written = client.file_write(id, FILE, None, Zeros { left: FILE_BYTES }).await?;
    Ok(usize::try_from(written.size)?)
}

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / MEGABYTE / time.as_secs_f64()
}

/// A file's content without a file.
#[derive(Debug)]
struct Zeros {
    left: usize,
}

impl AsyncRead for Zeros {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let count = into.remaining().min(self.left);
        into.initialize_unfilled_to(count).fill(0);
        into.advance(count);
        self.left -= count;
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_counts_what_came_and_an_early_end_is_an_error() {
        assert!((rate(5_000_000, Duration::from_millis(500)) - 10.0).abs() < 1e-9);
        let mut drained = Drained::default();
        assert!(drained.rate().is_none());
        drained.drain(Zeros { left: 4 * PIECE }, 3 * PIECE).await.unwrap();
        assert_eq!(drained.bytes, 2 * PIECE);
        assert!(drained.rate().unwrap() > 0.0);
        let early = Drained::default().drain(Zeros { left: 2 * PIECE }, 3 * PIECE).await;
        assert!(early.unwrap_err().to_string().contains("closed after"));
    }
}
