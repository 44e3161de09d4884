//! Rows of published ports: a server in a sandbox asked through its public address, beside the same
//! server asked directly, at the guest's own address in the namespace of the networks.
//!
//! The server is our own, in Perl, because what comes with small images closes every connection
//! after one answer and forks for each.

use std::{net::SocketAddrV4, rc::Rc};

use anyhow::{Context as _, Result, ensure};
use api::{EditSandbox, ExecRequest, IdleSetting, Publish, Thermal};
use base::process::{Process, start_time};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, timeout},
};
use vmm::VmHandle;

use super::{
    Bench,
    bare::Kit,
    bulk::rate,
    daemon,
    rounds::{WARM_UP_CALLS, WARM_UP_VMS},
    rows::{
        Row::{
            self, DirectHot, DirectMbs, ProxyAdded, ProxyMbs, Publish1000, PublishHot,
            PublishWakeCold, PublishWakeWarm,
        },
        milliseconds,
    },
    visitor::Visitor,
};

/// Rows of a sandbox that runs or is paused.
const AWAKE: [Row; 7] =
    [DirectHot, PublishHot, ProxyAdded, PublishWakeWarm, DirectMbs, ProxyMbs, Publish1000];
/// Rows that are one small answer.
const SMALL: [Row; 4] = [DirectHot, PublishHot, ProxyAdded, PublishWakeWarm];
/// Visitors of `publish_1000`.
const CROWD: u16 = 1000;
/// Files that this program may have open for them.
const OPEN_FILES: u64 = 4096;
/// The port in the guest.
const PORT: u16 = 8000;
/// What the server answers to `large`.
const LARGE_BYTES: usize = 96 << 20;
/// Where a sample of a rate ends, whichever comes first.
const MOST_BYTES: usize = 1 << 30;
const MOST_TIME: Duration = Duration::from_secs(10);
/// The least idle time after which a sandbox goes to disk by itself, seconds.
const SOON: IdleSetting = IdleSetting::After(1);
/// How long it may take to.
const ASLEEP: Duration = Duration::from_secs(60);

/// Serves any number of connections in one process, which goes on in the background once it
/// listens: `large` is so many bytes, and everything else is small.
const SERVER: &str = r#"
use strict; use IO::Handle; use Socket qw(:DEFAULT SOCK_NONBLOCK IPPROTO_TCP TCP_NODELAY);
my ($port, $large) = @ARGV;
socket(my $listen, PF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "socket: $!\n";
setsockopt($listen, SOL_SOCKET, SO_REUSEADDR, 1) or die "reuse: $!\n";
bind($listen, sockaddr_in($port, INADDR_ANY)) or die "bind: $!\n";
listen($listen, 1024) or die "listen: $!\n";
my $child = fork() // die "fork: $!\n";
exit 0 if $child;
open($_, "+<", "/dev/null") or die "null: $!\n" for \*STDIN, \*STDOUT, \*STDERR;
$SIG{PIPE} = "IGNORE";
my $piece = "\0" x 65536;
my (%peers, %heard, %left);
my ($reads, $writes) = ("", "");
vec($reads, fileno($listen), 1) = 1;
sub gone {
    my $fd = shift;
    vec($reads, $fd, 1) = vec($writes, $fd, 1) = 0;
    delete $heard{$fd}; delete $left{$fd};
    close(delete $peers{$fd});
}
sub say_more {
    my $fd = shift;
    while ($left{$fd}) {
        my $size = $left{$fd} < length $piece ? $left{$fd} : length $piece;
        my $count = syswrite($peers{$fd}, $piece, $size);
        if (!defined $count) { $!{EAGAIN} or return gone($fd); last }
        $left{$fd} -= $count;
    }
    vec($writes, $fd, 1) = $left{$fd} ? 1 : 0;
}
for (;;) {
    select(my $readable = $reads, my $writable = $writes, undef, undef) > 0 or next;
    if (vec($readable, fileno($listen), 1)) {
        while (accept(my $peer, $listen)) {
            my $fd = fileno($peer);
            setsockopt($peer, IPPROTO_TCP, TCP_NODELAY, 1);
            $peer->blocking(0);
            $peers{$fd} = $peer; $heard{$fd} = "";
            vec($reads, $fd, 1) = 1;
        }
    }
    for my $fd (keys %peers) {
        say_more($fd) if vec($writable, $fd, 1);
        next unless $peers{$fd} && vec($readable, $fd, 1);
        my $count = sysread($peers{$fd}, $heard{$fd}, 4096, length $heard{$fd});
        if (!$count) { gone($fd) unless !defined $count && $!{EAGAIN}; next }
        while ($heard{$fd} =~ s/^GET (\S+)(?:[^\n]+\n)+\r\n//) {
            my $is_large = $1 =~ /large/;
            my $size = $is_large ? $large : 6;
            my $head = "HTTP/1.1 200 OK\r\nContent-Length: $size\r\n\r\n";
            syswrite($peers{$fd}, $is_large ? $head : $head . "hello\n");
            if ($is_large) { $left{$fd} = $size; say_more($fd); last unless $peers{$fd} }
        }
    }
}
"#;

/// A sandbox with a server, and where the public finds it.
struct Served {
    id: String,
    url: String,
}

impl Bench<'_> {
    /// Every row of this file that was asked for.
    pub(super) async fn published(&mut self, n: usize, n_cold: usize, n_bulk: usize) -> Result<()> {
        let (awake, cold) = (self.samples.want(&AWAKE), self.samples.want(&[PublishWakeCold]));
        if !awake && !cold {
            return Ok(());
        }
        let Some(served) = self.serve().await? else {
            self.say("publish_*, proxy_*: left out, because the image has no perl");
            return Ok(());
        };
        if self.samples.want(&SMALL) {
            self.small_rounds(&served, n).await?;
        }
        if self.samples.want(&[DirectMbs, ProxyMbs]) {
            self.large_rounds(&served, n_bulk).await?;
        }
        if self.samples.want(&[Publish1000]) {
            self.crowd_rounds(&served, n_bulk).await?;
        }
        if cold {
            let kit = self.kit().await?;
            self.published_cold_rounds(&kit, &served, n_cold).await?;
        }
        self.client.destroy(&served.id).await?;
        Ok(())
    }

    /// A sandbox in which the server runs; `None` if it cannot.
    async fn serve(&mut self) -> Result<Option<Served>> {
        let id = self.create().await?.id;
        if !self.has_perl(&id).await? {
            self.client.destroy(&id).await?;
            return Ok(None);
        }
        let (port, large) = (PORT.to_string(), LARGE_BYTES.to_string());
        let command = ["perl", "-e", SERVER, &port, &large].map(str::to_owned);
        let request = ExecRequest { cmd: command.into(), ..ExecRequest::default() };
        let started = self.client.exec(&id, &request).await.context("start a server")?;
        ensure!(started.exit_code == 0, "perl: {}", started.stderr.trim());
        let (rule, _) =
            self.client.publish(&id, &Publish { port: PORT, ..Publish::default() }).await?;
        let url = rule.url.context("the daemon serves no published ports")?;
        Ok(Some(Served { id, url }))
    }

    /// A visitor who goes past the daemon.
    async fn direct(&mut self, id: &str) -> Result<Visitor> {
        let sandbox = self.client.sandbox(id).await?;
        let ip = sandbox.ip.as_deref().context("the sandbox has no address")?;
        let address = SocketAddrV4::new(ip.parse().context("read the sandbox's address")?, PORT);
        let namespace = vmm::namespace_of(&self.monitor(id)?);
        let namespace = namespace.context("the sandbox is in no namespace")?;
        let connected = net::fabric::connect_inside(namespace, address).await;
        Visitor::direct(connected.with_context(|| format!("connect to {address}"))?)
    }

    fn monitor(&self, id: &str) -> Result<VmHandle> {
        let monitors = daemon::monitors(self.daemon.data(), id)?;
        let pid = monitors.into_iter().next().context("the sandbox has no monitor")?;
        Ok(VmHandle { pid, start_time: start_time(pid)? })
    }

    /// The same request directly and through the proxy, and through the proxy once more after the
    /// sandbox was paused.
    async fn small_rounds(&mut self, served: &Served, n: usize) -> Result<()> {
        self.announce(&SMALL, n, WARM_UP_CALLS);
        let mut direct = self.direct(&served.id).await?;
        let mut visitor = Visitor::of(&served.url, 0).await?;
        for round in 0..n + WARM_UP_CALLS {
            self.samples.warming_up = round < WARM_UP_CALLS;
            let (_, alone) = direct.get("").await?;
            self.samples.add_time(DirectHot, alone);
            let (_, hot) = visitor.get("").await?;
            self.samples.add_time(PublishHot, hot);
            self.samples.add(ProxyAdded, milliseconds(hot) - milliseconds(alone));
            if self.samples.want(&[PublishWakeWarm]) {
                self.client.pause(&served.id).await?;
                let (_, warm) = visitor.get("").await?;
                self.samples.add_time(PublishWakeWarm, warm);
            }
        }
        Ok(())
    }

    async fn large_rounds(&mut self, served: &Served, n: usize) -> Result<()> {
        self.announce(&[DirectMbs, ProxyMbs], n, 0);
        self.samples.warming_up = false;
        let mut direct = self.direct(&served.id).await?;
        let mut visitor = Visitor::of(&served.url, 0).await?;
        for _ in 0..n {
            for (row, from) in [(DirectMbs, &mut direct), (ProxyMbs, &mut visitor)] {
                if self.samples.want(&[row]) {
                    self.samples.add(row, repeated(from).await?);
                }
            }
        }
        Ok(())
    }

    /// All visitors are connected before the first of them asks for anything.
    async fn crowd_rounds(&mut self, served: &Served, n: usize) -> Result<()> {
        self.announce(&[Publish1000], n, 1);
        raise_open_files()?;
        for round in 0..=n {
            self.samples.warming_up = round == 0;
            let mut visitors = Vec::new();
            for number in 0..CROWD {
                visitors.push(Visitor::of(&served.url, number).await?);
            }
            let mut answers = JoinSet::new();
            for mut visitor in visitors {
                answers.spawn(async move { visitor.get("").await });
            }
            for answer in answers.join_all().await {
                self.samples.add_time(Publish1000, answer?.1);
            }
        }
        Ok(())
    }

    async fn published_cold_rounds(
        &mut self,
        kit: &Rc<Kit>,
        served: &Served,
        n: usize,
    ) -> Result<()> {
        self.announce(&[PublishWakeCold], n, WARM_UP_VMS);
        let edit = EditSandbox {
            keep_hot: Some(false),
            idle_warm_sec: Some(SOON),
            idle_cold_sec: Some(SOON),
            ..EditSandbox::default()
        };
        self.client.edit(&served.id, &edit).await?;
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            self.fall_asleep(&served.id).await?;
            // Takes longer than the daemon takes for the last of putting it away.
            self.floor(kit).await?;
            let thermal = self.client.sandbox(&served.id).await?.thermal;
            ensure!(thermal == Some(Thermal::Cold), "the sandbox is {thermal:?}");
            let mut visitor = Visitor::of(&served.url, 0).await?;
            let (_, time) = visitor.get("").await?;
            self.samples.add_time(PublishWakeCold, time);
        }
        Ok(())
    }

    /// Waits until a sandbox has gone to disk by itself: what its owner has stopped, the public
    /// does not wake.
    async fn fall_asleep(&mut self, id: &str) -> Result<()> {
        let monitor = self.monitor(id)?;
        if let Some(monitor) = Process::adopt(monitor.pid, monitor.start_time)? {
            timeout(ASLEEP, monitor.exited()).await.context("the sandbox does not fall asleep")?;
        }
        Ok(())
    }
}

/// MB/s of whole answers, one after the other.
async fn repeated(visitor: &mut Visitor) -> Result<f64> {
    let (start, mut moved) = (Instant::now(), 0);
    while moved + LARGE_BYTES <= MOST_BYTES && start.elapsed() < MOST_TIME {
        let (size, _) = visitor.get("large").await?;
        ensure!(size == LARGE_BYTES, "{size} bytes of {LARGE_BYTES} came");
        moved += size;
    }
    Ok(rate(moved, start.elapsed()))
}

fn raise_open_files() -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|now| now >= OPEN_FILES) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(OPEN_FILES), maximum: now.maximum };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")
}
