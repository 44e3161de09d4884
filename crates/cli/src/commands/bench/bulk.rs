//! Rows that are a rate: large files through the API, beside what the guest's port itself carries.
//!
//! The files are in the guest's memory, in `/dev/shm`, so that the way is measured and not the
//! disk. For the ceiling a program of the guest takes over the descriptor of the agent's other
//! port, `bhatti.notice`, which a port's rule of one opener would otherwise keep from it, and has
//! `cat` write to it; the host reads the monitor's socket. Nothing of ours is in between. The other
//! way the host writes and `head` reads.

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    ErrorCode, ExecRequest,
    client::{Client, ClientError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::UnixStream,
    time::{Duration, Instant, timeout},
};

use super::{
    Bench,
    calls::read,
    rows::Row::{self, CatBulk, CatBulkIn, ReadBulk, WriteBulk},
};

/// The file that is sent again and again; small enough for two of them in a sandbox of 512 MB.
const FILE_BYTES: usize = 96 << 20;
const FILE: &str = "/dev/shm/bulk";
/// Where a sample ends, whichever comes first.
const MOST_BYTES: usize = 1 << 30;
const MOST_TIME: Duration = Duration::from_secs(20);
/// Bytes that are read at once from the port.
const PIECE: usize = 1 << 20;
/// Bytes that a port takes before anybody reads them, and more: what is written after them shows how
/// fast they are read.
const AHEAD: usize = 4 << 20;
const MEGABYTE: f64 = 1e6;

/// Borrows from process 1 the descriptor of the port named `bhatti.notice`, and has `cat` write the
/// file to it, as often as told, or without a file `head` read so many bytes. Waits for the port,
/// which the agent itself does not: that is a property of the open file and is put back.
const BORROW: &str = r#"
use strict; use Fcntl;
my ($count, $file) = @ARGV;
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
if (!$child && defined $file) {
    open(STDOUT, ">&", $port) or die; exec("cat", ($file) x $count) or die;
} elsif (!$child) {
    open(STDIN, "<&", $port) or die; open(STDOUT, ">", "/dev/null") or die;
    exec("head", "-c", $count) or die;
}
waitpid($child, 0);
my $status = $?;
fcntl($port, F_SETFL, $flags + 0);
die "the program ended with $status\n" if $status;
"#;

impl Bench<'_> {
    /// What can be carried, and what is.
    pub(super) async fn bulk(&mut self, n: usize) -> Result<()> {
        let rows = [CatBulk, CatBulkIn, ReadBulk, WriteBulk];
        if !self.samples.want(&rows) {
            return Ok(());
        }
        self.announce(&rows, n, 0);
        self.samples.warming_up = false;
        let id = self.create().await?.id;
        let size = write(&mut self.client, &id).await?;
        ensure!(size == FILE_BYTES, "{size} bytes were written");
        let has_perl = self.has_perl(&id).await?;
        if !has_perl {
            self.say("cat_bulk, cat_bulk_in: left out, because the image has no perl");
        }
        for _ in 0..n {
            if has_perl && self.samples.want(&[CatBulk]) {
                let rate = self.cat(&id).await.context("carry bytes on a bare port")?;
                self.samples.add(CatBulk, rate);
            }
            if has_perl && self.samples.want(&[CatBulkIn]) {
                let rate = self.cat_in(&id).await.context("carry bytes into a bare port")?;
                self.samples.add(CatBulkIn, rate);
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

    pub(super) async fn has_perl(&mut self, id: &str) -> Result<bool> {
        let cmd = ["perl", "-e", "1"].map(str::to_owned).to_vec();
        match self.client.exec(id, &ExecRequest { cmd, ..ExecRequest::default() }).await {
            Ok(answer) => Ok(answer.exit_code == 0),
            Err(ClientError::Api(error)) if error.code == ErrorCode::CommandNotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// MB/s of a plain `cat` on the bare port.
    async fn cat(&mut self, id: &str) -> Result<f64> {
        let stream = self.notice_port(id).await?;
        let times = MOST_BYTES / FILE_BYTES;
        let run = self.borrow_port(id, &[&times.to_string(), FILE])?;
        let mut drained = Drained::default();
        let drain = drained.drain(stream, times * FILE_BYTES);
        // Perl is waited for, because it puts things back. If the time is up it is killed with the
        // request and does not, so this sandbox is then good for nothing but more of the same.
        let both = async { tokio::try_join!(drain, run).map(drop) };
        timeout(MOST_TIME, both).await.unwrap_or(Ok(()))?;
        drained.rate().context("nothing came")
    }

    /// MB/s of a program that reads the bare port.
    async fn cat_in(&mut self, id: &str) -> Result<f64> {
        let stream = self.notice_port(id).await?;
        let total = MOST_BYTES / FILE_BYTES * FILE_BYTES;
        let run = self.borrow_port(id, &[&total.to_string()])?;
        let both = async { tokio::try_join!(filled(stream, total), run) };
        let (time, ()) = timeout(2 * MOST_TIME, both).await.context("too slow to measure")??;
        Ok(rate(total - AHEAD, time))
    }

    async fn notice_port(&self, id: &str) -> Result<UnixStream> {
        let socket = self.daemon.data().join("run").join(id).join("notice.sock");
        let connected = UnixStream::connect(&socket).await;
        connected.with_context(|| format!("connect to {}", socket.display()))
    }

    /// Runs the program that takes the port over.
    fn borrow_port(
        &self,
        id: &str,
        arguments: &[&str],
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let mut client = self.daemon.client()?;
        let command = ["perl", "-e", BORROW].iter().chain(arguments);
        let request = ExecRequest {
            cmd: command.map(|word| (*word).to_owned()).collect(),
            user: Some("root".to_owned()),
            ..ExecRequest::default()
        };
        let id = id.to_owned();
        Ok(async move {
            let answer = client.exec(&id, &request).await.context("run perl in the sandbox")?;
            ensure!(answer.exit_code == 0, "perl: {}", answer.stderr.trim());
            Ok(())
        })
    }
}

/// How long it takes to write all but the first bytes.
async fn filled(mut to: impl AsyncWrite + Unpin, total: usize) -> Result<Duration> {
    let piece = vec![0; PIECE];
    let mut start = Instant::now();
    for at in (0..total).step_by(PIECE) {
        if at == AHEAD {
            start = Instant::now();
        }
        to.write_all(&piece).await?;
    }
    Ok(start.elapsed())
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

pub(super) fn rate(bytes: usize, time: Duration) -> f64 {
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
