use std::process::ExitCode;

use anyhow::Result;
use api::CreateUser;

use super::{limits::Limits, print_key};
use crate::app::{App, DONE};

/// Create a user and show the key, once
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name
    #[arg(long)]
    name: String,
    /// Let the user manage users and images
    #[arg(long)]
    admin: bool,
    #[command(flatten)]
    limits: Limits,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let limits = &args.limits;
    let request = CreateUser {
        name: args.name.clone(),
        admin: args.admin,
        max_sandboxes: limits.max_sandboxes,
        max_cpus_per_sandbox: limits.max_cpus,
        max_memory_mb_per_sandbox: limits.max_memory,
        max_snapshots: limits.max_snapshots,
        max_volume_mb: limits.max_volume,
        max_backups: limits.max_backups,
        idle_warm_sec: limits.idle.warm,
        idle_cold_sec: limits.idle.cold,
        egress: limits.traffic.ceiling(),
        default_egress: limits.traffic.default(),
        network_limits: limits.traffic.limits(),
    };
    let key = app.with_client(async |client| Ok(client.create_user(&request).await?))?;
    print_key(app.printer(), &key, "created")?;
    DONE
}
