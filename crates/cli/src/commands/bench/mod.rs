//! Measures what users wait for, beside what the machine itself takes for the same.
//!
//! ```text
//! scratch directory ─► a daemon of our own ─► rounds ───┐
//!   (with links to the user's kernel          resources ┴► samples ─► report
//!    and images)
//! ```
//! Invariant: whatever happens, daemon, VMs, control groups and directory are gone in the end. A
//! sample that fails ends the run; none is dropped.

mod attach;
mod bare;
mod bulk;
mod calls;
mod convert;
mod copies;
mod daemon;
mod docker;
mod furnish;
mod images;
mod layers;
mod publish;
mod pulled;
mod report;
mod resources;
mod rounds;
mod rows;
mod stats;
mod visitor;
mod volumes;
mod wakes;

use std::{path::Path, process::ExitCode, rc::Rc};

use anyhow::{Context as _, Result};
use api::{CreateSandbox, client::Client};
use disk::{
    image::{self, ImageError},
    kernel::{self, KernelError},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use vmm::{Qemu, accel::Accelerator};

use self::{
    bare::Kit,
    daemon::Daemon,
    report::{Host, Report},
    rows::{Row, Samples},
};
use super::preparing;
use crate::{
    app::{App, DONE},
    failure::hinted,
    human,
    printer::Printer,
};

/// What a program that Ctrl-C ended exits with, as shells count.
const INTERRUPTED: u8 = 130;
/// Images to take if none is named, the better one first.
const IMAGES: [&str; 2] = ["minimal", "busybox"];
/// Samples of a row if nothing is said.
const SAMPLES: u32 = 100;
/// The most samples of rows that take long each.
const SAMPLES_AT_ONCE: u32 = 20;
const SAMPLES_LARGE: u32 = 10;
const SAMPLES_DAEMON: u32 = 20;
const SAMPLES_BULK: u32 = 3;
/// The most sandboxes whose memory is measured.
const SANDBOXES: u32 = 40;

/// Measure this machine with a daemon of its own, which leaves nothing behind
///
/// Takes some minutes. Kernel and image have to be prepared; the daemon that may be running is not
/// touched, but what it does slows the measurements down.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only these rows and what they are compared with
    #[arg(long, value_enum, value_name = "ROW", value_delimiter = ',')]
    only: Vec<Row>,
    /// Samples of a row [default: 100, fewer of what takes long]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    n: Option<u32>,
    /// Image of the sandboxes [default: minimal, or busybox if that is not prepared]
    #[arg(long)]
    image: Option<String>,
    /// Memory of the sandboxes in MB
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    memory: u64,
    /// Leave the daemon's data directory behind, to look at
    #[arg(long)]
    keep: bool,
}

/// What the measurements share.
struct Bench<'a> {
    printer: &'a Printer,
    started: Instant,
    user_data: &'a Path,
    daemon: &'a Daemon,
    client: Client,
    qemu: Qemu,
    request: CreateSandbox,
    kit: Option<Rc<Kit>>,
    samples: Samples,
}

impl Bench<'_> {
    fn say(&self, text: &str) {
        let at = human::duration(self.started.elapsed());
        self.printer.note(&format!("{at}: {text}"));
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err(hinted("a daemon has to run as root", "run it with sudo"));
    }
    let user_data = std::path::absolute(app.global().data_dir()).context("find the data dir")?;
    kernel::current(&user_data).map_err(|e| preparing::with_hint(e, KernelError::hint))?;
    let request = CreateSandbox {
        image: Some(choose_image(args, &user_data)?),
        memory_mb: Some(args.memory),
        // Only what is measured may put a sandbox to sleep.
        keep_hot: true,
        ..CreateSandbox::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("start the async runtime")?;
    let scratch = daemon::make_scratch()?;
    let measured = runtime.block_on(guarded(args, app.printer(), &user_data, &scratch, request));
    if args.keep {
        app.printer().note(&format!("the data directory is still there: {}", scratch.display()));
    } else {
        base::files::remove_any(&scratch).context("clean up")?;
    }
    let Some(report) = measured? else { return Ok(ExitCode::from(INTERRUPTED)) };
    if app.printer().is_json() {
        app.printer().json(&report)?;
    } else {
        app.printer().bytes(report.text().as_bytes())?;
    }
    DONE
}

fn choose_image(args: &Args, data: &Path) -> Result<String> {
    let prepared =
        |name: &str| image::open(data, name).map_err(|e| preparing::with_hint(e, ImageError::hint));
    if let Some(name) = &args.image {
        return prepared(name).map(|_| name.clone());
    }
    match IMAGES.into_iter().find(|name| prepared(name).is_ok()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(hinted(
            format!("there is no image below {}", data.display()),
            "prepare one: bhatti image prepare minimal",
        )),
    }
}

/// Measures, and cleans up afterwards however that ended. `None` if the user ended it.
async fn guarded(
    args: &Args,
    printer: &Printer,
    user_data: &Path,
    scratch: &Path,
    request: CreateSandbox,
) -> Result<Option<Report>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("watch for signals")?;
    let mut daemon = None;
    let measured = tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        _ = hangup.recv() => Ok(None),
        measured = measure(args, printer, user_data, scratch, request, &mut daemon) => {
            measured.map(Some)
        }
    };
    if matches!(measured, Ok(None)) {
        printer.note("interrupted, cleaning up");
    }
    let cleaned = clean_up(daemon, scratch).await;
    let measured = measured?;
    cleaned.context("clean up")?;
    Ok(measured)
}

async fn clean_up(daemon: Option<Daemon>, scratch: &Path) -> Result<()> {
    if let Some(daemon) = daemon {
        // What does not work here, perhaps because the daemon is gone, is left to the sweep.
        let _ = daemon.destroy_all().await;
        let _ = daemon.end().await;
    }
    daemon::sweep(scratch).await
}

async fn measure(
    args: &Args,
    printer: &Printer,
    user_data: &Path,
    scratch: &Path,
    request: CreateSandbox,
    slot: &mut Option<Daemon>,
) -> Result<Report> {
    let started = Instant::now();
    let samples = Samples::of(&args.only);
    let docker = samples.want(&[Row::DockerRun]).then_some(docker::IMAGE);
    let images = request.image.as_deref().into_iter().chain(docker);
    furnish::furnish(scratch, user_data, images)?;
    daemon::prepare(scratch, user_data, user_data)?;
    daemon::serve_public(scratch)?;
    let (daemon, _) = Daemon::start(scratch).await?;
    let daemon = &*slot.insert(daemon);
    let mut client = daemon.client()?;
    let health = client.health().await?;
    let accelerator = if health.accelerator == "kvm" { Accelerator::Kvm } else { Accelerator::Tcg };
    let qemu = Qemu::find(accelerator)?;
    let host = Host::look(health, &qemu, scratch, &request);
    let kit = None;
    let mut bench =
        Bench { printer, started, user_data, daemon, client, qemu, request, kit, samples };
    let at_most = |most: u32| args.n.unwrap_or(SAMPLES).min(most) as usize;
    bench.rounds(at_most(u32::MAX), at_most(SAMPLES_AT_ONCE)).await?;
    bench.volumes(at_most(SAMPLES_AT_ONCE)).await?;
    bench.wakes(at_most(u32::MAX), at_most(SAMPLES_AT_ONCE)).await?;
    bench.snapshots(at_most(SAMPLES_AT_ONCE), at_most(SAMPLES_LARGE)).await?;
    bench.forks(at_most(u32::MAX), at_most(SAMPLES_AT_ONCE)).await?;
    bench.attachments(at_most(u32::MAX)).await?;
    bench.files(at_most(u32::MAX)).await?;
    bench.bulk(at_most(SAMPLES_BULK)).await?;
    bench.convert(at_most(SAMPLES_LARGE)).await?;
    bench.pulled(at_most(SAMPLES_LARGE)).await?;
    bench.saves(at_most(SAMPLES_AT_ONCE)).await?;
    bench.builds(at_most(SAMPLES_LARGE)).await?;
    bench.docker(at_most(SAMPLES_LARGE)).await?;
    bench.published(at_most(u32::MAX), at_most(SAMPLES_AT_ONCE), at_most(SAMPLES_BULK)).await?;
    bench.memory(at_most(SANDBOXES)).await?;
    bench.daemons(at_most(SAMPLES_DAEMON)).await?;
    bench.say("done");
    Ok(Report::new(host, bench.samples.results()))
}
