use std::process::ExitCode;

use anyhow::Result;
use api::CreateUser;

use super::print_key;
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
    /// Most sandboxes at a time
    #[arg(long, value_name = "N")]
    max_sandboxes: Option<u32>,
    /// Most vCPUs of one sandbox
    #[arg(long, value_name = "N")]
    max_cpus: Option<u32>,
    /// Most memory of one sandbox in MB
    #[arg(long, value_name = "MB")]
    max_memory: Option<u64>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = CreateUser {
        name: args.name.clone(),
        admin: args.admin,
        max_sandboxes: args.max_sandboxes,
        max_cpus_per_sandbox: args.max_cpus,
        max_memory_mb_per_sandbox: args.max_memory,
        ..CreateUser::default()
    };
    let key = app.with_client(async |client| Ok(client.create_user(&request).await?))?;
    print_key(app.printer(), &key, "created")?;
    DONE
}
