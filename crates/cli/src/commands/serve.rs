use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use api::IdleSetting;
use daemon::{Bound, Config, Flags, NetworkMode, PublicFlags};
use orchestrator::{
    Defaults, Settings,
    model::{IdleLimit, IdlePolicy},
};
use tracing_subscriber::EnvFilter;

use super::idle;
use crate::app::{App, DONE};

/// What a sandbox gets if neither request nor configuration say otherwise.
const IMAGE: &str = "minimal";
const MEMORY_MB: u64 = 1024;
const DISK_MB: u64 = 8192;
/// How many guests and how many monitors stand ready. Even the smallest host has room for one.
const PRESTARTED: usize = 1;
/// When it sleeps, in the same way.
const IDLE_WARM: IdleLimit = IdleLimit::After(30);
const IDLE_COLD: IdleLimit = IdleLimit::After(30 * 60);

/// The listener for the public.
#[derive(Debug, clap::Args)]
struct PublicArgs {
    /// TCP address to serve published ports on, or "none" [default: none]
    #[arg(long, value_name = "ADDRESS")]
    public_listen: Option<String>,
    /// Domain in which every alias is a host [default: aliases are the first part of the path]
    #[arg(long, value_name = "DOMAIN")]
    public_zone: Option<String>,
    /// How --public-listen is encrypted; auto is acme if the file says how,
    /// and else local-ca if other machines reach it
    #[arg(long, value_name = "HOW", value_parser = ["auto", "off", "local-ca", "acme"])]
    public_tls: Option<String>,
    /// TCP address that answers plain HTTP with where the encrypted is found, or "none"
    #[arg(long, value_name = "ADDRESS")]
    public_http_listen: Option<String>,
    /// Certificate with its chain for --public-listen, in PEM
    #[arg(long, value_name = "FILE", requires = "public_key")]
    public_cert: Option<PathBuf>,
    /// Key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "public_cert")]
    public_key: Option<PathBuf>,
}

impl PublicArgs {
    fn flags(&self) -> PublicFlags {
        PublicFlags {
            listen: self.public_listen.clone(),
            zone: self.public_zone.clone(),
            http_listen: self.public_http_listen.clone(),
            tls: self.public_tls.clone(),
            cert: self.public_cert.clone(),
            key: self.public_key.clone(),
        }
    }
}

/// Run the daemon
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Unix socket to serve on [default: api.sock in the data directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// TCP address to serve on, or "none" [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Serve an address that other machines reach without encryption
    #[arg(long, visible_alias = "insecure")]
    insecure_listen: bool,
    /// Certificate with its chain for --listen, in PEM [default: of this node's own authority, if
    /// other machines reach it]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    #[command(flatten)]
    public: PublicArgs,
    /// Idle time until a sandbox's vCPUs are paused, if nobody else says: 45s, never [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = idle::parse)]
    idle_warm: Option<IdleSetting>,
    /// Idle time, from the same moment on, until it goes to disk [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = idle::parse)]
    idle_cold: Option<IdleSetting>,
    /// Available memory of the host below which idle sandboxes go to disk early, in MB [default: a
    /// twentieth of all]
    #[arg(long, value_name = "MB", env = "BHATTI_MEMORY_LOW")]
    memory_low: Option<u64>,
    /// How many guests and how many QEMU processes stand ready for the next sandboxes; a guest takes
    /// some 50 MB, a process 20 [default: 1]
    #[arg(long, value_name = "N", env = "BHATTI_PRESTARTED")]
    prestarted: Option<usize>,
    /// How sandboxes are connected: nat, with a way out through this host; isolated, without one; user,
    /// each alone, which is for daemons without root; off [default: nat; without root user]
    #[arg(long, value_name = "HOW", env = "BHATTI_NETWORK")]
    network: Option<NetworkMode>,
    /// What to log: error, warn, info, debug, trace, or a filter
    #[arg(long, env = "BHATTI_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    log_to_stderr(&args.log_level)?;
    let config = Config::load(Flags {
        data_dir: app.global().given_data_dir().map(Path::to_owned),
        socket: args.socket.clone(),
        listen: args.listen.clone(),
        insecure_listen: args.insecure_listen,
        tls_cert: args.tls_cert.clone(),
        tls_key: args.tls_key.clone(),
        public: args.public.flags(),
        idle_warm: args.idle_warm,
        idle_cold: args.idle_cold,
        memory_low_mb: args.memory_low,
        prestarted: args.prestarted,
        network: args.network,
    })?;
    let sandbox = &config.sandbox;
    let settings = Settings {
        data_dir: config.data_dir.clone(),
        lohar: crate::LOHAR,
        defaults: Defaults {
            image: sandbox.image.clone().unwrap_or_else(|| IMAGE.to_owned()),
            memory_mib: sandbox.memory_mb.unwrap_or(MEMORY_MB),
            disk_mib: sandbox.disk_size_mb.unwrap_or(DISK_MB),
        },
        idle: idle_policy(sandbox.idle()),
        memory_low_mib: sandbox.memory_low_mb,
        prestarted: sandbox.prestarted.unwrap_or(PRESTARTED),
        network: config.network.clone(),
        backups: config.backups.clone(),
        images: config.images.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(daemon::serve(config, settings, |bound| announce(app, bound)))?;
    DONE
}

/// When sandboxes sleep that nobody says otherwise of.
fn idle_policy(said: IdlePolicy) -> IdlePolicy {
    IdlePolicy { warm: said.warm.or(Some(IDLE_WARM)), cold: said.cold.or(Some(IDLE_COLD)) }
}

fn log_to_stderr(level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(level).context("read --log-level")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    Ok(())
}

fn announce(app: &App, bound: &Bound) {
    let printer = app.printer();
    let mut places = vec![format!("unix://{}", bound.socket.display())];
    let scheme = if bound.encrypted { "https" } else { "http" };
    places.extend(bound.listen.map(|address| format!("{scheme}://{address}")));
    if let Some(public) = bound.public {
        printer.note(&format!("published ports: {public}"));
    }
    printer.note(&format!("bhatti {} serves on {}", env!("CARGO_PKG_VERSION"), places.join(", ")));
    match &bound.node {
        Ok(node) => printer.note(&format!(
            "engine: {}/{} ({}), because {}",
            node.engine, node.accelerator, node.engine_version, node.reason
        )),
        Err(error) => {
            printer.note(&format!("no sandbox can run yet: {error}"));
            if let Some(hint) = &error.hint {
                printer.note(&format!("hint: {hint}"));
            }
        }
    }
    if let Some(path) = &bound.new_admin_key {
        printer.note(&format!("the admin's API key is in {}", path.display()));
    }
}
