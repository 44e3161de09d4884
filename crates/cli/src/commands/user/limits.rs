//! What users may have, as flags say it.

use super::traffic::Traffic;
use crate::commands::idle::Idle;

/// The flags.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Limits {
    /// Most sandboxes at a time
    #[arg(long, value_name = "N")]
    pub(crate) max_sandboxes: Option<u32>,
    /// Most vCPUs of one sandbox
    #[arg(long, value_name = "N")]
    pub(crate) max_cpus: Option<u32>,
    /// Most memory of one sandbox in MB
    #[arg(long, value_name = "MB")]
    pub(crate) max_memory: Option<u64>,
    /// Most named snapshots at a time
    #[arg(long, value_name = "N")]
    pub(crate) max_snapshots: Option<u32>,
    /// Largest sum of the sizes of all volumes: 500M, 20G, 1T
    #[arg(long, value_name = "SIZE", value_parser = crate::commands::volume::size_mb)]
    pub(crate) max_volume: Option<u64>,
    /// Most backups of volumes at a time
    #[arg(long, value_name = "N")]
    pub(crate) max_backups: Option<u32>,
    #[command(flatten)]
    pub(crate) idle: Idle,
    #[command(flatten)]
    pub(super) traffic: Traffic,
}
